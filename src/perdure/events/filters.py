"""`where` and `users`: yes/no expressions over columns, in a small safe part of SQL.

    domain = 'source' and value >= 4
    item.genres like '%Comedy%' and not (user.age = 'under 18')
    behaviour in ('buy', 'cart') or "odd name" is null

Event columns go by perdure's names, whatever the file calls them: `user`, `item`, `time`, `position`, `value`,
`behaviour`, `domain`, or by those of `data.features`. Item attributes are `item.<name>`, user attributes `user.<name>`;
a name with other characters than letters, digits and `_` stands in double quotes, whole: `"item.release date"`. Text
stands in single quotes. `time` is in seconds since the epoch, whatever the log's unit: `time >= 1712275200` for
2024-04-05 in UTC. A row on which the answer is null (a comparison with a missing value) is not selected. What is
divided by 0 is missing, and so is the root or logarithm of a number that has none.

Only what looks at one row at a time is part of the language: comparisons, `and or not`, `in ( ... )`, `between`,
`like`, `ilike`, `is null`, `case`, `cast`, arithmetic and the functions below. There are no subqueries,
aggregates, windows, clocks or files, so a filter can neither read what it is not shown nor carry knowledge from one
user to another.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

import numpy as np
import polars as pl

from perdure.errors import SettingsError, closest, shorten

FUNCTIONS = frozenset(
    ["abs", "ceil", "floor", "round", "sign", "mod", "sqrt", "ln", "exp", "lower", "upper", "length", "char_length",
     "trim", "ltrim", "rtrim", "left", "right", "substr", "strpos", "replace", "concat", "starts_with", "ends_with",
     "regexp_like", "coalesce", "ifnull", "nullif", "greatest", "least", "if", "cast", "try_cast", "date_part",
     "array_contains", "array_length", "array_to_string"]
)  # fmt: skip
"""Functions an expression may call: all of them look at one row."""

UNDEFINED = frozenset(["sqrt", "ln", "mod"])
"""Those of them that give no number for some numbers."""

WORDS = frozenset(
    ["and", "or", "not", "in", "is", "null", "like", "ilike", "between", "true", "false", "case", "when", "then",
    "else",
     "end", "as", "int", "integer", "bigint", "smallint", "float", "double", "real", "text", "varchar", "string",
     "boolean", "date", "timestamp"]
)  # fmt: skip
"""Words of the language that are no column names (a column of such a name stands in double quotes)."""

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")+")
      | (?P<scoped>\b(?:item|user)\.[^\W\d]\w*)
      | (?P<word>[^\W\d]\w*)
      | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<comment>--|/\*)
      | (?P<sign><>|!=|<=|>=|::|[=<>+\-*/%(),\[\]])""",
    re.VERBOSE,
)
_DATE = re.compile(r"(?<!\d)\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)")
_SLICE = 2_000_000  # rows looked at together: bounds memory on long logs


def check(
    expression: str,
    known: Iterable[str],
    *,
    where: str,
    own: str = "",
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> tuple[pl.Expr, list[str]]:
    """The parsed expression and the columns it reads.

    Args:
        expression: what the settings say.
        known: the columns that exist.
        where: place in the settings, for the message, such as "[history], key where".
        own: a scope that may be left out or given, "user." where the rows are users.
        renamed: the source's name of a column -> its name here, for who writes the former.

    Raises:
        SettingsError: not a sentence of the language, or a column that does not exist.
    """
    known = list(known)
    fault = _Fault(expression, known, where, renamed)
    pieces, at = [], 0
    while at < len(expression):
        token = _TOKEN.match(expression, at)
        if token is None or token.lastgroup == "comment":
            raise fault(f"{expression[at : at + 2].strip()!r} at character {at + 1} is not part of the filter language")
        kind, text = str(token.lastgroup), token.group()
        if date := _DATE.match(expression, at):
            raise fault(f"{date.group()} reads as a subtraction", fix=_seconds(date.group()))
        at = token.end()
        if kind == "scoped":
            text = '"' + (text.removeprefix(own) if own else text) + '"'
        elif kind == "quoted" and own:
            text = '"' + text[1:].removeprefix(own)
        elif kind == "word":
            called = expression[at:].lstrip().startswith("(")
            _check_word(text.lower(), text, called, known, fault)
            if not called and text in known and text.lower() not in WORDS:
                text = f'"{text}"'  # `user` alone is a word of SQL
        pieces.append(text)
    try:
        parsed = pl.sql_expr(_finite([piece for piece in pieces if piece.strip()]))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise fault(f"cannot be read: {_first_line(error)}") from None
    names = list(dict.fromkeys(parsed.meta.root_names()))
    for name in names:
        if name not in known:
            raise fault(f"no column {name!r}", name)
    if not names:
        raise fault("reads no column")
    return parsed, names


def select(
    expression: str,
    known: Iterable[str],
    frame: Callable[[list[str], int, int], pl.DataFrame],
    n: int,
    *,
    where: str,
    own: str = "",
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> np.ndarray:
    """(n,) bool: the rows for which `expression` is true.

    Args:
        expression, known, where, own, renamed: as in `check`.
        frame: (names, offset, length) -> those columns of those rows.
        n: number of rows.

    Raises:
        SettingsError: as `check`, or the expression does not fit the columns' types or is no yes/no.
    """
    known = list(known)
    parsed, names = check(expression, known, where=where, own=own, renamed=renamed)
    fault = _Fault(expression, known, where, renamed)
    chosen = np.zeros(n, dtype=bool)
    for offset in range(0, max(n, 1), _SLICE):
        length = min(_SLICE, n - offset)
        try:
            rows = frame(names, offset, length).with_columns(pl.selectors.float().fill_nan(None))
            answer = rows.select(parsed.alias("answer"))["answer"]
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            date = _DATE.search(expression)
            fix = _seconds(date.group()) if date else ""
            if date and "time" not in names:
                fix = f"a column of dates is compared with cast('{date.group()}' as date)"
            raise fault(f"does not fit the columns: {_first_line(error)}", fix=fix) from None
        if answer.dtype != pl.Boolean:
            raise fault(f"gives {answer.dtype}, not yes or no")
        chosen[offset : offset + length] = answer.fill_null(False).to_numpy()
    return chosen


def _finite(tokens: list[str]) -> str:
    """The expression with null in place of what is no number (0 / 0), which Polars holds above all numbers."""
    before, after = [""] * len(tokens), [""] * len(tokens)
    for at, token in enumerate(tokens):
        if token in ("/", "%") and at + 1 < len(tokens):
            before[at + 1] += "nullif( "
            after[_end(tokens, at + 1)] += " , 0 )"
        elif token.lower() in UNDEFINED and tokens[at + 1 : at + 2] == ["("]:
            before[at] += "nullif( "
            after[_end(tokens, at)] += " , cast('NaN' as double) )"
    return " ".join(begin + token + end for begin, token, end in zip(before, tokens, after, strict=True))


def _end(tokens: list[str], at: int) -> int:
    """Where the operand that begins at `at` ends: a sign, then a value, a call, a bracket or a case, and its casts."""
    while tokens[at] in ("+", "-") and at + 1 < len(tokens):
        at += 1
    if tokens[at].lower() == "case":
        at = _closing(tokens, at, "case", "end")
    elif tokens[at] == "(" or tokens[at + 1 : at + 2] == ["("]:
        at = _closing(tokens, at + (tokens[at] != "("), "(", ")")
    while tokens[at + 1 : at + 2] == ["::"] and at + 2 < len(tokens):
        at += 2
    return at


def _closing(tokens: list[str], at: int, opening: str, closing: str) -> int:
    """Where what is opened at `at` is closed; the last token where it is not, which the parser will tell."""
    depth = 0
    for place in range(at, len(tokens)):
        depth += (tokens[place].lower() == opening) - (tokens[place].lower() == closing)
        if not depth:
            return place
    return len(tokens) - 1


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like `name`, or ""."""
    ends = {k.split(".", 1)[-1]: k for k in reversed(list(known))}  # without scopes, in which all look alike
    close = closest(name.split(".", 1)[-1], ends)
    return ends[close] if close else ""


class _Fault:
    """Makes the one message of a wrong expression: what, where, which columns exist, the nearest name."""

    def __init__(self, expression: str, known: list[str], where: str, renamed: Mapping[str, str]) -> None:
        self.expression, self.known, self.where = expression, known, where
        self.renamed = {source: here for source, here in renamed.items() if here in known}

    def __call__(self, what: str, name: str = "", fix: str = "") -> SettingsError:
        if here := self.renamed.get(name):
            fix = f"column {name!r} of the source is called {here} here"
        near = nearest(name, self.known) if name else ""
        compared = name and re.search(
            rf'(?:[=>]|\bin\s*\([^)]*)\s*"?{re.escape(name)}\b', self.expression, re.IGNORECASE
        )
        text = f"text stands in single quotes: '{name}'" if compared else ""
        spelled = near if re.fullmatch(r"(?:(?:item|user)\.)?[^\W\d]\w*", near) else f'"{near}"'
        return SettingsError(
            f"{what} in {shorten(self.expression)!r}",
            expected="a yes/no expression over the columns " + (", ".join(self.known) or "(there are none)"),
            where=self.where,
            fix=fix or "; ".join(filter(None, [f"did you mean {spelled}?" if near else "", text])),
        )


def _seconds(date: str) -> str:
    """What to write for a date; a day that no month has is told as a form."""
    try:
        then = f"{datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp():.0f} for {date} in UTC"
    except ValueError:
        then = "1704067200 for 2024-01-01 in UTC"
    return f"time is in seconds since the epoch: {then}; another column's dates are cast('2024-01-01' as date), or text"


def _check_word(word: str, spelled: str, called: bool, known: list[str], fault: _Fault) -> None:
    """A bare word is a column, a word of the language, or one of the functions when a bracket follows."""
    if word in WORDS and not (
        called and word not in {"in", "and", "or", "not", "when", "then", "else", "between", "like"}
    ):
        return
    if called:
        if word in FUNCTIONS:
            return
        near = difflib.get_close_matches(word, sorted(FUNCTIONS), n=1)
        raise fault(f"no function {spelled!r} in the filter language" + (f" (did you mean {near[0]}?)" if near else ""))
    if spelled not in known:
        raise fault(f"no column {spelled!r}", spelled)


def _first_line(error: BaseException) -> str:
    return shorten(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
