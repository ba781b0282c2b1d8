"""The shapes of `/v1/audit/sinks`; `openapi` publishes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class SinkStandingItem(BaseModel):
    """How far a sink is, and what is wrong with it."""

    sink: str = Field(description="namespace/name")
    receiver: str
    suspended: bool
    position: int = Field(description="everything of the record up to here is delivered, or among the dead letters")
    lag_records: int = Field(description="positions between that and the newest record")
    lag_seconds: float = Field(description="age of the oldest record that waits")
    dead_letters: int
    fault: str = Field(description="why nothing is delivered at the moment; empty: nothing is wrong")


class SinkStandingList(BaseModel):
    """By namespace and name."""

    items: list[SinkStandingItem]


class DeadLetterItem(BaseModel):
    """A record that the receiver refused for good."""

    position: int
    record: str = Field(description="id of the record; empty when it is not kept any more")
    event: str
    at: str
    fault: str
    resend: bool = Field(description="it will be sent once more")


class DeadLetterList(BaseModel):
    """In the order of the record."""

    items: list[DeadLetterItem]
    next: int = Field(description="for `after`; 0: there are no more")


class DeadLetterAction(BaseModel):
    """What to do with dead letters; no positions: with all of the sink."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["resend", "drop"]
    positions: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), max_length=1000)


class DeadLettersActedOn(BaseModel):
    """How many there were."""

    records: int


SINK_SHAPES: tuple[type[BaseModel], ...] = (SinkStandingList, DeadLetterAction, DeadLetterList, DeadLettersActedOn)
