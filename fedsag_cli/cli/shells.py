"""The functions by which bash, zsh and fish complete the words of `fedsag`, and where they are installed.

A function runs the command with `_FEDSAG_COMPLETE` in its environment, and gives it the words up to the cursor as they
were typed. It reads what `position.offers` returns. Errors are not shown: the user is still typing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedsag_cli import machine
from fedsag_cli.errors import UsageError

_BASH = r"""# completion of fedsag for bash
_fedsag_complete() {
    local IFS=$' \t\n' line=${COMP_LINE:0:COMP_POINT} words=() word i
    for ((i = 0; i <= COMP_CWORD; i++)); do  # bash has split the words at = and : too
        if ((i == 0)) || [[ $line == [[:space:]]* ]]; then
            line=${line#"${line%%[![:space:]]*}"}
            words+=("")
        fi
        word=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && word=$line
        words[${#words[@]} - 1]+=$word
        line=${line#"$word"}
    done
    local last=${words[${#words[@]} - 1]} answer otherwise= value
    answer=$(_FEDSAG_COMPLETE=bash "${1/#~\//$HOME/}" "${words[@]:1}" 2>/dev/null) || return 0
    local before=${last%"${last##*[=:]}"}
    [[ $COMP_WORDBREAKS == *=* ]] || before=
    COMPREPLY=()
    while IFS= read -r value; do
        if [[ -z $otherwise ]]; then
            otherwise=$value
            continue
        fi
        value=${value%%$'\t'*}
        [[ $value == *[=/] ]] && compopt -o nospace
        [[ $last == [\"\']* ]] || printf -v value %q "$value"
        COMPREPLY+=("${value#"$before"}")
    done <<<"$answer"
    if [[ $otherwise == folders && ${#COMPREPLY[@]} == 0 ]]; then
        compopt -o dirnames
    fi
}
complete -o nosort -F _fedsag_complete fedsag
"""

_ZSH = r"""#compdef fedsag
# completion of fedsag for zsh
_fedsag() {
    local line value
    local -a answer described
    answer=("${(@f)$(_FEDSAG_COMPLETE=zsh ${~words[1]} "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
    for line in "${(@)answer[2,-1]}"; do
        value=${line%%$'\t'*}
        described+=("${value//:/\\:}:${line#*$'\t'}")
    done
    if (( $#described == 0 )); then
        [[ $answer[1] == folders ]] && _path_files -/
        return
    fi
    if [[ $value == *= ]]; then
        _describe -V fedsag described -S ''
    else
        _describe -V fedsag described
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _fedsag fedsag
"""

_FISH = r"""# completion of fedsag for fish
function __fedsag_complete
    set -l words (commandline -opc)
    set -l answer (env _FEDSAG_COMPLETE=fish $words (commandline -ct) 2>/dev/null)
    if test (count $answer) -gt 1
        printf '%s\n' $answer[2..-1]
    else if test "$answer[1]" = folders
        __fish_complete_directories (commandline -ct) ''
    end
end
complete --command fedsag --no-files --keep-order --arguments '(__fedsag_complete)'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """A shell's function, the file for it, and the shell's own file that must read it; None if it reads it anyway."""

    script: str
    file: Callable[[], Path]
    read_by: Callable[[], Path | None]


@dataclass(kw_only=True)
class Installed:
    """What installing has changed, and how to undo it."""

    changed: list[str] = field(default_factory=list)
    undo: str
    try_now: str


def _own(suffix: str) -> Callable[[], Path]:
    return lambda: machine.home() / ".fedsag" / f"completion.{suffix}"


SHELLS: Mapping[str, Shell] = {
    "bash": Shell(script=_BASH, file=_own("bash"), read_by=lambda: machine.home() / ".bashrc"),
    "zsh": Shell(script=_ZSH, file=_own("zsh"), read_by=lambda: _folder("ZDOTDIR", "") / ".zshrc"),
    "fish": Shell(
        script=_FISH,
        file=lambda: _folder("XDG_CONFIG_HOME", ".config") / "fish" / "completions" / "fedsag.fish",
        read_by=lambda: None,
    ),
}


def named(name: str) -> str:
    """The shell of that name; without a name, the one that started this process. Raises UsageError."""
    if not name:
        name = next((each for each in (_parent(), Path(os.environ.get("SHELL", "")).name) if each in SHELLS), "")
        if not name:
            raise UsageError("the shell is not known: name bash, zsh or fish", hint="fedsag --install-completion bash")
    if name not in SHELLS:
        raise UsageError(f"there is no completion for {name!r}: only for {', '.join(SHELLS)}")
    return name


def install(name: str) -> Installed:
    """Write the function of a shell, and let the shell read it. A second time changes nothing. Raises UsageError."""
    shell = SHELLS[name]
    file, read_by = shell.file(), shell.read_by()
    line = f"[ ! -r {_quoted(file)} ] || . {_quoted(file)}  # completion of fedsag"
    undo = f"remove {file}" + (
        f", and from {read_by} the line that ends in `# completion of fedsag`" if read_by else ""
    )
    installed = Installed(undo=undo, try_now=f". {_quoted(file)}" if name != "fish" else f"source {_quoted(file)}")
    try:
        if not file.is_file() or file.read_text() != shell.script:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(shell.script)
            installed.changed.append(f"wrote {file}")
        if read_by is not None and _append(line, read_by):
            installed.changed.append(f"added a line to {read_by}: {line}")
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be changed: {error.strerror}",
            hint=f"fedsag --show-completion {name} prints the function, for a file of your choice",
        ) from None
    return installed


def _append(line: str, file: Path) -> bool:
    """Whether the line was not there. The rest of the file, which may be a link, stays as it is. Raises OSError."""
    before = file.read_bytes() if file.exists() else b""
    if line.encode() in before.splitlines():
        return False
    start = b"" if not before or before.endswith(b"\n") else b"\n"
    with file.open("ab") as end:
        end.write(start + line.encode() + b"\n")
    return True


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or machine.home() / default)


def _parent() -> str:
    """The name of the program that started this process; empty where the system does not show it."""
    try:
        return Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    except OSError:
        return ""


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
