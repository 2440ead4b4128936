"""Candidates: what a shell offers for the word at the cursor, where click does not know it by itself.

Each function has the form that click asks for as ``shell_complete``. A shell waits for them at each press of
Tab: they load little, ask no server, and say nothing of what goes wrong.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from mpchat.config import Setting
from mpchat.errors import MpchatError
from mpchat.instance.paths import paths
from mpchat.setting_values import instance_name, path, secret_place
from mpchat.settings import absolute, current_folder

Candidates = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def files(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Let the shell offer files."""
    return [CompletionItem(begun, type="file")]


def one_of(*words: str) -> Candidates:
    """Return a function that offers those of ``words`` that begin as the word at the cursor does."""

    def offered(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        return [CompletionItem(each) for each in words if each.startswith(begun)]

    return offered


def _folders(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(begun, type="dir")]


def _instances(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer the names that servers of this user have, or have had."""
    runtime_dir = context.params.get("runtime_dir") or os.environ.get("MPCHAT_RUNTIME_DIR", "")
    names: list[str] = []
    with suppress(OSError, MpchatError):
        base = paths("default", absolute(runtime_dir, current_folder())).folder.parent
        names = [each.name for each in sorted(base.iterdir()) if _is_instance(each)]
    return one_of(*names)(context, parameter, begun)


def _is_instance(folder: Path) -> bool:
    with suppress(ValueError):
        return paths(instance_name(folder.name), str(folder.parent)).lock.exists()
    return False


def of_setting(setting: Setting) -> Candidates | None:
    """Return what offers a setting's values; None where there are too many to list."""
    if setting.name == "name":
        return _instances
    if setting.name == "runtime_dir":
        return _folders
    if setting.parse in (path, secret_place):
        return files
    words = re.split(r", | or ", setting.allowed)
    return one_of(*words) if all(_is_value(setting, each) for each in words) else None


def _is_value(setting: Setting, word: str) -> bool:
    """Tell whether a word of what is allowed is a value, and no explanation."""
    if not word.isidentifier():
        return False
    with suppress(ValueError, KeyError, TypeError):
        setting.parse(word)
        return True
    return False
