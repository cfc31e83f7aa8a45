"""What may leave a site, whatever is asked of it: `[policy]` of site.toml."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import Field

from imaging.errors import InputError
from models.contents import CONTENTS, DEFAULT, Content
from study.answers import Answers
from study.plan import Plan, Teacher
from study.wire import AverageRequest, Shard


class Policy(Plan):
    """`[policy]` of site.toml. A site never sends pixels or its teacher's weights; this narrows what it does send."""

    release: tuple[Content, ...] = DEFAULT
    """What answers to a shard may hold; without `logits` the site trains and evaluates but answers nothing. `features`
    are whole feature maps, which tell far more of a teacher than its logits do."""
    max_slices: int = Field(4096, ge=1)
    """Slices that one shard may ask about."""
    max_message_mib: int = Field(1024, ge=1)
    """Size of one incoming message in MiB: bounds the service's memory."""

    evaluations: int = Field(64, ge=0)
    """Students that may be evaluated on the site's patients, in all studies together; 0 refuses all. Metrics of many
    networks, made for the purpose, could tell where in a patient's scan the organ lies."""

    average: bool = False
    """Whether the student's weights may leave after training on this site's patients, so that they can be averaged
    (FedAvg and its kin). Whoever has them can ask them anything, of these patients too; so no, unless you say so."""

    workspace_gib: float = Field(200.0, gt=0)
    """Size of the workspace beyond which no new study, teacher or student is begun: every way to prepare slices has a
    cache of its own, every teacher and student a folder."""

    downloads: bool = False
    """Whether a teacher may begin with pretrained weights, for which the service then asks the internet once."""

    @property
    def max_bytes(self) -> int:
        return self.max_message_mib * 2**20

    def admit_teacher(self, teacher: Teacher) -> None:
        """InputError where that teacher would make the service, which has the scans, open a connection."""
        if teacher.options.get("pretrained") and not self.downloads:
            raise InputError(
                "this site's policy downloads no pretrained weights",
                fix="leave `pretrained` out of the teacher's options, or set `downloads = true` in the site's [policy]",
            )

    def admit(self, shard: Shard) -> None:
        """InputError, before any work, where this policy could release no answer to the shard."""
        if unknown := sorted(set(shard.wants) - set(CONTENTS)):
            raise InputError(
                f"a shard asks for {', '.join(unknown)}, which no site sends", fix=f"ask for {', '.join(CONTENTS)}"
            )
        if "logits" not in self.release:
            raise InputError("this site's policy releases no logits", fix="go on without this site's answers")
        if len(shard.slice_ids) > self.max_slices:
            raise InputError(
                f"a shard asks about {len(shard.slice_ids)} slices, this site's policy allows {self.max_slices}",
                fix=f"set `federation.shard_slices` to {self.max_slices} or less",
            )

    def admit_evaluation(self, done: int) -> None:
        """InputError where as many students as this policy allows have been evaluated."""
        if done >= self.evaluations:
            raise InputError(
                f"this site's policy allows {self.evaluations} students to be evaluated on its patients",
                fix="ask the site's engineer for more `evaluations` in the site's [policy]",
            )

    def admit_folder(self, folder: Path, workspace: Path) -> None:
        """InputError where a folder would be begun in a workspace that holds all that this policy allows."""
        if folder.exists():
            return
        held = 0
        for path in workspace.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a temporary file, gone by now
                held += path.lstat().st_size
        if held > self.workspace_gib * 2**30:
            raise InputError(
                f"this site's workspace holds {held / 2**30:.1f} GiB, its policy allows {self.workspace_gib:g}",
                fix="ask its engineer to remove what old studies left there, or for more `workspace_gib` in [policy]",
            )

    def admit_averaging(self, request: AverageRequest) -> None:
        """InputError where trained weights are asked for that this policy keeps."""
        if not (request.keep or self.average):
            raise InputError(
                "this site's policy lets no weights leave that were trained on its patients",
                fix="go on without this site, or ask its engineer for `average = true` in the site's [policy]",
            )

    def released(self, answers: Answers) -> Answers:
        """The same answers without what may not leave."""
        return answers.without(*answers.contents - set(self.release))

    def admit_bytes(self, received: int) -> None:
        """InputError where a message is larger than this site takes."""
        if received > self.max_bytes:
            raise InputError(
                f"a message is larger than the {self.max_message_mib} MiB that this site takes",
                fix="set a smaller `federation.shard_slices`",
            )
