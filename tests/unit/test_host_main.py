# SPDX-License-Identifier: Apache-2.0
"""`python -m host_driver`: bad flags end with status 2 and one clear line, a bad world with 3."""

import pytest

from host_driver import __main__ as shell

GOOD = {
    "--link": "ipc:///tmp/none", "--control": "ipc:///tmp/none.control",
    "--mac": "02:00:00:00:00:01", "--peer-mac": "02:00:00:00:00:02",
}  # fmt: skip


def arguments(**changes: str | None) -> list[str]:
    flags = GOOD | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [part for name, value in flags.items() if value is not None for part in (name, value)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (arguments(link=None), "the following arguments are required: --link"),
        (arguments(mac="02:00"), "'02:00' is not written as 02:00:00:00:00:01"),
        (arguments(seed="seven"), "invalid int value: 'seven'"),
        (arguments(profile="p62"), "invalid choice: 'p62'"),
        (arguments(driver="nonsense"), "driver 'nonsense' is not written as package.module:Class"),
        (arguments(driver="proto.caps:Caps"), "lacks xdo_dev_state_add"),
        (arguments(curve_peer="x"), "--curve-secret and --curve-peer belong together"),
        ([*arguments(), "--sed", "1"], "unrecognized arguments: --sed"),
    ],
)
def test_bad_flags(capsys, flags, words) -> None:
    with pytest.raises(SystemExit) as caught:
        shell.main(flags)
    text = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in text
    assert text.count("\n") == 1


def test_a_missing_dma_file_is_the_environment(capsys, monkeypatch, tmp_path) -> None:
    for name in ("die_with_parent", "os.umask", "resource.setrlimit"):
        monkeypatch.setattr(f"host_driver.__main__.{name}", lambda *_: None)
    assert shell.main(arguments(dma=str(tmp_path / "gone"))) == 3
    assert (
        f"host0: [Errno 2] No such file or directory: '{tmp_path}/gone'" in capsys.readouterr().err
    )
