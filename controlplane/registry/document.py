"""What documents of every kind are made of: names, references to files and secrets, and the rules of reading."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""A DNS label: what may stand in a path, a Cedar id and a cluster name without escaping."""

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
"""A file in the secrets folder of the entry's namespace (`LEGATION_SECRETS_DIR/<namespace>/`)."""


class Document(BaseModel):
    """Base of every part of a document: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class SecretReference(Document):
    """Where a secret is: a file of the namespace's secrets folder, or a value that is encrypted when stored.

    A value is write-only: reading the document gives `{encrypted: true}` back, and applying that keeps the stored value.
    """

    file: FileName | None = None
    value: str | None = Field(default=None, max_length=16384, repr=False)
    encrypted: Literal[True] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretReference:
        if sum(part is not None for part in (self.file, self.value, self.encrypted)) != 1:
            raise ValueError("needs exactly one of 'file' and 'value'")
        return self
