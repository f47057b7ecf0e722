"""Where the lab cannot run it says so in one line, before anything is touched."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipelines.lab.needs import check
from pipelines.lab.scenarios import SCENARIOS
from telemetry.errors import ConfigError


def test_without_root_it_refuses_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="needs root"):
        check([SCENARIOS["loss"]])


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"nft \(package nftables\).*tcpdump \(package tcpdump\)"):
        check([SCENARIOS["nft_loss"]])


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="needs Linux"):
        check([SCENARIOS["loss"]])
