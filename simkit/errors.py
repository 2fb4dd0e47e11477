"""Errors with one shape: who, what was found, what was wanted, what to do; and the exit status of each kind.

Every error holds one or more :class:`Problem`. A stage collects all its problems and fails once, so that a user repairs a
manifest in one round instead of forty. The text of a problem is

    error[SK203] pairs.csv:17 (column 'auc'): value 1.7 is outside 0..1
    fix: ...
    more: simkit explain SK203
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "EXPLANATIONS", "DataError", "IntegrityError", "NotEnoughData", "Problem", "Problems", "ResourceError", "SimkitError",
    "UsageError", "nearest",
]

SHOWN = 20
"""How many problems an error prints; the others are counted (and written to a file by the command line)."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a code, where it is, what was found and wanted, and the remedy."""

    code: str
    where: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        head = f"error[{self.code}] {self.where}: {self.message}" if self.where else f"error[{self.code}] {self.message}"
        return head + (f"\nfix: {self.fix}" if self.fix else "")


class SimkitError(Exception):
    """Base of every error that simkit raises on purpose. ``exit_status`` is what the command line returns."""

    exit_status = 1

    def __init__(self, code: str, where: str, message: str, fix: str = "", *, problems: Iterable[Problem] = ()):
        self.problems: tuple[Problem, ...] = tuple(problems) or (Problem(code, where, message, fix),)
        super().__init__(str(self))

    def __reduce__(self) -> tuple[object, ...]:  # exceptions cross process borders by their arguments
        return (_rebuild, (type(self), self.problems))

    def __str__(self) -> str:
        shown = [str(problem) for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            shown.append(f"... and {len(self.problems) - SHOWN} more problems of {len(self.problems)}")
        codes = sorted({problem.code for problem in self.problems})
        return "\n".join([*shown, f"more: simkit explain {codes[0]}"])


def _rebuild(kind: type[SimkitError], problems: tuple[Problem, ...]) -> SimkitError:
    return kind("", "", "", problems=problems)


class UsageError(SimkitError):
    """The command line, the study file or an argument is wrong (exit status 2)."""

    exit_status = 2


class DataError(SimkitError):
    """Input data are wrong: a file, a row, a label (exit status 3)."""

    exit_status = 3


class ResourceError(SimkitError):
    """Disk, memory, permission, a missing package or weights that cannot be fetched (exit status 5)."""

    exit_status = 5


class IntegrityError(SimkitError):
    """Something in the store or a weights file is damaged or of another version (exit status 6)."""

    exit_status = 6


class NotEnoughData(SimkitError):
    """The data are valid but too few to answer: a statistical refusal (exit status 7)."""

    exit_status = 7


class Problems:
    """Collects the problems of one stage. ``raise_if_any`` fails once with all of them."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, code: str, where: str, message: str, fix: str = "") -> None:
        self.found.append(Problem(code, where, message, fix))

    def catch(self, error: SimkitError) -> None:
        self.found.extend(error.problems)

    def raise_if_any(self, kind: type[SimkitError]) -> None:
        if self.found:
            raise kind("", "", "", problems=self.found)


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'otdd'?)"`` for the closest of the known words, or ``""`` when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.55)
    return f" (did you mean '{close[0]}'?)" if close else ""


EXPLANATIONS: dict[str, str] = {
    # 1xx: usage and configuration
    "SK101": "A name (command, method, extractor, source, data set or option) is not known. Names are matched exactly; `simkit list` "
             "shows them all, and the message gives the nearest one.",
    "SK102": "A value has the wrong type or is outside its range. `simkit list NAME` shows each option with its type, range and default.",
    "SK103": "The study file is not valid TOML, or has a key that simkit does not know. All errors of the file are reported at once, each "
             "with its path inside the file; `simkit schema` exports a JSON Schema with which an editor completes and checks it.",
    "SK104": "A required option, key or argument is missing.",
    "SK105": "Two things claim one name: two data sets, or two plug-ins. Names identify results, so they must differ.",
    "SK106": "The device that was asked for is not there. simkit never falls back to another device silently: ask for `--device cpu`.",
    "SK107": "The output path is in use by something else, or was made from another configuration.",
    "SK108": "The method cannot be computed in this set-up (for example, a measure that needs a network per source, with one shared extractor).",
    "SK109": "Embeddings made by different extractors (or options, or weights) lie in different spaces: no distance between them means anything.",
    "SK110": "A plug-in could not be imported. The other methods still work; the message holds the reason.",
    "SK111": "A report does no work of its own, and something of the study is not finished. The message lists what; `simkit run` does it and finds again "
             "what is there.",
    # 2xx: data
    "SK201": "A file or folder does not exist, or is empty, or is not of a kind that simkit reads.",
    "SK202": "A table (CSV) has a wrong shape: a missing or repeated column, or a row with too many or too few fields. Columns are never shifted "
             "and rows never dropped silently.",
    "SK203": "A field of a table holds a value that is not allowed there: text where a number belongs, a number outside its range, an empty cell, or "
             "another value than a row above gives for the same thing. Look at the line and the column that the message names; where a whole column "
             "is wrong, only its first cells are listed. `correlate` and `recommend` leave empty cells (also NaN, NA, N/A, null) out and count them with "
             "--allow-missing, and read 0,93 as a number with --decimal ','. AUC and accuracy must lie in 0..1: divide percent by 100, or say that "
             "they are percent with --metric 'auc in percent'. A column that is no measure at all is avoided by naming the measures with --method.",
    "SK204": "The same row key appears twice (for example one source-target pair with two values); nothing says which row counts. Look whether a "
             "row was copied, and whether a column that tells the rows apart was not understood: in a long table the columns are called 'method' "
             "and 'value', repeated runs (folds, seeds) are told apart by 'replicate', repeated scores by 'value_replicate'; in a table of "
             "`simkit finetune` they are told apart by fold, seed and metric. Rename the column or remove one of the rows; `correlate` and `recommend` "
             "average rows of the same key with --aggregate mean.",
    "SK205": "A manifest names a file that is missing, or that lies outside its base folder; or an archive holds a member that would (.. or an absolute "
             "path), a link, a device, an encrypted member, or one that unpacks to far more than is allowed.",
    "SK206": "An image cannot be read: truncated, empty, or not an image. By default such images are skipped, named, counted in every table made "
             "from the data set, and the exit status is 4; `--strict` stops before the work.",
    "SK207": "An image is of a kind that has no single right conversion to 8 bit (16-bit, signed, 32-bit, float). Declare the conversion by `intensity` "
             "(full-range, 12-bit, window, percentile, image-percentile); a guess would saturate it: the common loaders turn a 16-bit X-ray into 11 grey "
             "levels. Of animated and multi-page files the first frame is read, and that is said; `frames` chooses otherwise. Also: an image has another "
             "number of channels than the network takes. Only grey becomes colour and colour grey; for others set `channels` in [finetune].",
    "SK208": "A method needs labels (or two classes at least) and the data set has none; or it takes one label an image and the data set has several.",
    "SK209": "Two tables that should be joined do not name the same things. The message lists the pairs and the names that have no partner, with the "
             "nearest spelling: names must be the same to the letter, case included. Correct them, or say that two names mean the same data set with "
             "--alias A=B (once for each pair of names). `correlate` and `recommend` leave pairs that only one table has out and count them with "
             "--allow-missing. With --baseline self every target needs a row whose source is the target itself, with --baseline scratch one whose "
             "source is 'scratch'.",
    "SK210": "The features hold NaN or infinite values. No measure is defined on them.",
    "SK211": "The direction of a measure is not known: state whether higher values mean more similar. simkit never guesses it. A performance "
             "counts as better when it is higher: one of which lower is better (a loss, an error) is refused until it is negated.",
    # 3xx: resources
    "SK301": "Disk, memory, permission, or hours of predicted time: the message names the path or the pair, what is needed, what there is, and the "
             "option that allows it.",
    "SK302": "Weights are not on this machine and could not be downloaded. The message says which file, its digest, and where to put it.",
    "SK303": "An optional package is missing, or the installed torch and torchvision do not match. The message holds the install line.",
    "SK304": "A cluster cannot be reached, has no machine with the cores or the accelerator that one run needs, or has a machine on which other "
             "versions are installed than here. Finished runs are kept.",
    # 4xx: integrity
    "SK401": "A file of the store is damaged (its digest differs), foreign, or from a newer simkit. `simkit store verify` lists such files; "
             "`simkit store verify --repair` sets them aside so that they are made again.",
    "SK402": "A weights file is truncated, or does not fit the network: names or shapes of its tensors differ.",
    # 5xx: statistics
    "SK501": "There are too few images, classes, folds, sources or targets for the question. The message says how many there are and are needed.",
    "SK502": "The value is undefined (for example the correlation of a constant column, or the AUC of a training whose loss became NaN). "
             "Undefined is reported as undefined, never as 0 or NaN.",
    # 6xx: finished with gaps
    "SK601": "The command finished, but items were skipped (exit status 4) or trainings failed (exit status 1). They are listed in the message, in the JSON "
             "result and in `run.json`, and counted in the tables.",
    "SK999": "A bug in simkit. The traceback was written to the file named in the message; please report it.",
}
"""What each code means; printed by ``simkit explain CODE``."""
