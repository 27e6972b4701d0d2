"""The Amazon-Reviews releases of 2014 and 2023: which tables are theirs, and what is kept of them."""

import html
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from genrec.data.account import TableAccount
from genrec.data.folders import in_file

REVIEWS_2014 = frozenset(
    (
        "reviewerID", "asin", "reviewerName", "helpful", "reviewText", "overall", "summary", "unixReviewTime",
        "reviewTime",
    )
)  # fmt: skip
REVIEWS_2023 = frozenset(
    (
        "rating", "title", "text", "images", "asin", "parent_asin", "user_id", "timestamp", "helpful_vote",
        "verified_purchase",
    )
)  # fmt: skip
META = frozenset(
    (
        "asin", "title", "price", "imUrl", "related", "salesRank", "brand", "categories", "description",
        "main_category", "average_rating", "rating_number", "features", "images", "videos", "store", "details",
        "parent_asin", "bought_together", "subtitle", "author",
    )
)  # fmt: skip
# What is kept of reviews: their texts are most of the file and nothing here reads them.
REVIEW_FIELDS = {
    "reviewerID": pl.String,
    "user_id": pl.String,
    "asin": pl.String,
    "parent_asin": pl.String,
    "unixReviewTime": pl.Int64,
    "timestamp": pl.Int64,
    "overall": pl.Float64,
    "rating": pl.Float64,
}
PICTURES = frozenset(
    (
        "small_image_url", "medium_image_url", "large_image_url", "attachment_type", "hi_res", "large", "thumb",
        "variant",
    )
)  # fmt: skip
META_TEXT = ("title", "brand", "store", "main_category")
META_LISTS = ("categories", "features", "description")
UNREAD = "a field of Amazon's that genrec does not read"


def is_amazon_reviews(fields: Iterable[str]) -> bool:
    """Whether an object is a review as Amazon's releases write it, without fields of somebody's own."""
    names = frozenset(fields)
    new = {"user_id", "parent_asin", "asin", "timestamp", "rating"} <= names <= REVIEWS_2023
    return new or {"reviewerID", "asin", "unixReviewTime"} <= names <= REVIEWS_2014


def field_names(piece: bytes) -> set[str]:
    """Names of all fields in lines of JSON, also of inner objects; in a text a quote has a backslash before it."""
    return {name.decode("utf-8", errors="replace") for name in set(re.findall(rb'"([^"\\]{1,100})"\s*:', piece))}


def is_amazon_items(fields: Iterable[str]) -> bool:
    """Whether an object is metadata of a product as Amazon's releases write them, without fields of somebody's own."""
    names = frozenset(fields)
    return bool(names & {"asin", "parent_asin"}) and names <= META


def unread_of_reviews(fields: Iterable[str]) -> dict[str, str]:
    """Fields of reviews that are left out, and why; fields of somebody's own stay."""
    names = frozenset(fields)
    unread = dict.fromkeys(sorted((names & (REVIEWS_2014 | REVIEWS_2023)) - REVIEW_FIELDS.keys()), UNREAD)
    if {"asin", "parent_asin"} <= names:
        unread["asin"] = "parent_asin is the item: it is one for all variants of a product"
    return unread


def amazon_items(entries: Iterable[Mapping[str, Any]], where: str, account: TableAccount) -> pl.DataFrame:
    """Metadata as a table: ``item_id``, texts, ``price`` and lists; further fields of somebody's own as text."""
    kept = ("item_id", *META_TEXT, "price", *META_LISTS)
    columns: dict[str, list[Any]] = {name: [] for name in kept}
    prices = 0
    for row, entry in enumerate(entries):
        price = _price(entry.get("price"))
        prices += price is None and entry.get("price") not in (None, "", "None", "\u2014")
        columns["item_id"].append(entry.get("parent_asin") or entry.get("asin"))
        columns["price"].append(price)
        for name in META_TEXT:
            columns[name].append(_plain_text(entry.get(name)))
        for name in META_LISTS:
            columns[name].append(_plain_list(entry.get(name)))
        for name in entry.keys() - META:
            columns.setdefault(name, [None] * row)
        for name in columns.keys() - set(kept):
            value = entry.get(name)
            columns[name].append(None if value is None else str(value))
        unread = (entry.keys() & META) - {*kept, "asin", "parent_asin"}
        account.columns_left_out |= dict.fromkeys(unread, UNREAD)
    if prices:
        account.notes.append(f"{in_file(where, account)}{prices} prices are not one number: left empty")
    types: dict[str, Any] = {"price": pl.Float64, **dict.fromkeys(META_LISTS, pl.List(pl.String))}
    return pl.DataFrame([pl.Series(name, column, types.get(name, pl.String)) for name, column in columns.items()])


def one_row_per_product(table: pl.DataFrame, account: TableAccount) -> pl.DataFrame:
    """Products that occur twice repeat themselves: the first row is kept; what no product has is no column."""
    empty = [name for name in table.columns if table[name].null_count() == table.height]
    account.columns_left_out |= dict.fromkeys(empty, "empty in every row")
    kept = table.drop(empty).unique("item_id", keep="first", maintain_order=True)
    again = table["item_id"].filter(~table["item_id"].is_first_distinct())
    account.leave_out("products that occur more than once", len(again), again[:2].to_list())
    return kept


def _plain_text(value: Any) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return " ".join(html.unescape(value).split()) or None if isinstance(value, str) else None


def _plain_list(value: Any) -> list[str] | None:
    """A list of texts; inner lists are paths in a tree of categories."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return None
    texts = [" > ".join(map(str, entry)) if isinstance(entry, list) else entry for entry in value]
    return [text for text in map(_plain_text, texts) if text] or None


def _price(value: Any) -> float | None:
    try:
        price = float(str(value).replace(",", "").strip("$ "))
    except ValueError:
        return None
    return price if math.isfinite(price) else None
