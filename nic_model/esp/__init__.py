# SPDX-License-Identifier: Apache-2.0
"""AES-GCM for ESP (RFC 4106): one key row, seal and unseal, in the best form this process can run.

`expand_key` writes all that one SA's key needs into a row of KEY_BYTES bytes; every form reads the
same row. `seal` and `unseal` are kernels with one signature in every form (portable.py has the
text); BACKEND names the form that `select` chose when this package was imported.
"""

from nic_model.esp import select
from nic_model.esp.keys import KEY_BYTES, expand_key

BACKEND = select.chosen()
if BACKEND == "vaes":
    from nic_model.esp.vaes import seal, unseal
elif BACKEND == "vaes_avx2":
    from nic_model.esp.vaes_avx2 import seal, unseal
elif BACKEND == "aesni":
    from nic_model.esp.aesni import seal, unseal
else:
    from nic_model.esp.portable import seal, unseal

__all__ = ["BACKEND", "KEY_BYTES", "expand_key", "seal", "unseal"]
