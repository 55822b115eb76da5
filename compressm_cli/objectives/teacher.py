"""``teacher:`` of an objective of classes: a trained model that says beside the labels what is to be learned."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator

from compressm_cli.core.config import Config
from compressm_cli.data.interface import expanded
from compressm_cli.objectives.objective import ObjectiveConfig


class TeacherConfig(Config):
    """``teacher:``: a model of the same classes, trained on data that are encoded alike."""

    model: Annotated[str, Field(min_length=1)]
    """A run (``outputs/NAME``), a checkpoint, or an exported folder; relative ones start at the current folder."""
    temperature: Annotated[float, Field(ge=0.01, le=1000.0)] = 2.0
    """By which the outputs of both are divided before they are compared."""
    weight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Of the teacher in the loss; the rest is that of the labels."""

    @field_validator("model")
    @classmethod
    def _from_the_home_folder(cls, value: str) -> str:
        return str(expanded(value))


class TaughtConfig(ObjectiveConfig):
    """The settings of an objective that can have a teacher."""

    teacher: TeacherConfig | None = None
    """A trained model to learn from beside the labels; models are evaluated by the labels alone. Null is none."""

    def located(self, folder: Path) -> Self:
        if self.teacher is None:
            return self
        place = str(folder / self.teacher.model)
        return self.model_copy(update={"teacher": self.teacher.model_copy(update={"model": place})})

    def places(self) -> dict[str, str]:
        return {} if self.teacher is None else {"teacher.model": self.teacher.model}
