# SPDX-License-Identifier: Apache-2.0
"""The simulator: two hosts, cards and a wire under one seed; random lives, random faults, a judge.

It stands outside the system: it knows what users asked, what the wire and the stacks saw, and what
queries answered (`ledger`), nothing of the inside of host or card.
"""
