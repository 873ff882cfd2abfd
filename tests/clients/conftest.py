"""What tests of clients share: the `ronda` command within their process."""

from __future__ import annotations

from pathlib import Path

import pytest
from ronda.clients.cli.main import main
from ronda.tests.clients.commands import Said


@pytest.fixture
def said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Said:
    """Return a function that carries out a command line, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call
