"""The teachers' cards in a run directory: `teachers/<site>.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from imaging.atomic import write_text
from imaging.errors import InputError
from study.plan import Study
from study.wire import Card


def card_path(folder: Path, site: str) -> Path:
    """Where the card of a site lies in the run directory `folder`."""
    return folder / "teachers" / f"{site}.json"


def read_card(folder: Path, site: str) -> Card | None:
    """The card of a site's teacher; None before its first round."""
    path = card_path(folder, site)
    try:
        return Card.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise InputError("is not a teacher's card", where=path, fix="delete it: the site will send it again") from error


def write_card(folder: Path, card: Card) -> None:
    write_text(card_path(folder, card.site), card.model_dump_json(indent=1))


def trained(study: Study, folder: Path, site: str, number: int) -> bool:
    """Whether that site's teacher can be asked in round `number`: it has had its epochs, or has finished before."""
    card = read_card(folder, site)
    return card is not None and (card.finished or card.epochs >= study.epochs_of(site, number))


def trained_on(study: Study, folder: Path, site: str, number: int) -> bool:
    """Whether that site's teacher has had more epochs than round `number` asks about: that round is over."""
    card = read_card(folder, site)
    return card is not None and card.epochs > study.epochs_of(site, number)


def finished(folder: Path, site: str) -> bool:
    """Whether that site's teacher has been trained to its end."""
    card = read_card(folder, site)
    return card is not None and card.finished
