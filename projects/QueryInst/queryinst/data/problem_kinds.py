"""The kinds of problems of annotations: names, severities, and what to do about each.

Those of image files are in `image_check`.
"""

from .findings import Kind

_FIX = "`queryinst data check --fix` writes a mended copy"
_TOOL = "correct it where the file was made"
_MENDS = '`queryinst data check --fix` mends texts like "3" and floats like 3.0'
_NUMBERS = f"{_TOOL} ({_MENDS})"


def _error(name: str, title: str, advice: str) -> Kind:
    return Kind(name, "error", title, advice)


def _warning(name: str, title: str, advice: str) -> Kind:
    return Kind(name, "warning", title, advice)


# Of the file
JSON = _error("json", "a file that cannot be read as JSON", "export it again")
BYTE_ORDER_MARK = _error("json-byte-order-mark", "a byte-order mark before the JSON", _FIX)
FORMAT = _error(
    "coco-format",
    "a file that is not in COCO's format",
    "export it as COCO with instance segmentation",
)
KEY_MISSING = _error(
    "key-missing",
    "entries without a key that COCO's format needs",
    "add it where the file was made (`queryinst data check --fix` adds 'id', 'bbox', 'area' and"
    " 'iscrowd')",
)
NO_IMAGES = _error("images-none", "no images", "export the file again, with images")

# Of ids
IMAGE_ID = _error(
    "image-id",
    "ids of images that are none",
    f"{_TOOL} (`queryinst data check --fix` numbers images whose ids differ)",
)
IMAGE_ID_TWICE = _error("image-id-twice", "ids that several images have", "give each its own")
IMAGE_ID_MIXED = _error("image-id-mixed", "ids of images that are numbers and texts, mixed", _FIX)
IMAGE_ID_TYPE = _error(
    "image-id-type", "annotations that name their image by an id of another type", _FIX
)
IMAGE_ID_UNKNOWN = _warning(
    "image-id-unknown",
    "annotations of images that the file does not have, which are left out",
    "add the images, or remove the annotations",
)
CATEGORY_ID = _error("category-id", "ids of categories that are none", _FIX)
CATEGORY_ID_TWICE = _error(
    "category-id-twice", "ids that several categories have", "give each its own"
)
CATEGORY_ID_MIXED = _error(
    "category-id-mixed", "ids of categories that are numbers and texts, mixed", _FIX
)
CATEGORY_ID_TYPE = _error(
    "category-id-type", "annotations that name their category by an id of another type", _FIX
)
CATEGORY_ID_UNKNOWN = _error(
    "category-id-unknown",
    "annotations of categories that the file does not have",
    "add them to 'categories', or correct the annotations",
)
ANNOTATION_ID = _error("annotation-id", "ids of annotations that are none", _FIX)
ANNOTATION_ID_TWICE = _error("annotation-id-twice", "ids that several annotations have", _FIX)
ANNOTATION_ID_KIND = Kind(
    "annotation-id-kind",
    "note",
    "ids of annotations that are no integers of at least 1",
    "nothing here, evaluation numbers annotations itself; other tools take 0 for no match",
)

# Of categories and images
CATEGORY_NAME = _error("category-name", "categories without a name of one line", _TOOL)
CATEGORY_NAME_TWICE = _error(
    "category-name-twice", "categories of one name", "rename one, or give both one id"
)
NO_CATEGORIES = _error("categories-none", "no categories", "list all classes in 'categories'")
FILE_NAME = _error("file-name", "images without a file name of one line", _TOOL)
FILE_NAME_TWICE = _warning(
    "file-name-twice",
    "images that have the file of another",
    "merge their annotations under one image, or correct the names",
)
IMAGE_SIDES = _error("image-sides", "images whose height and width are no sizes", _FIX)
IMAGE_TOO_LARGE = _error(
    "image-too-large",
    "images with more pixels than INPUT.MAX_PIXELS",
    "raise INPUT.MAX_PIXELS, or cut or shrink the images and annotate those",
)

# Of flags and areas
CROWD_FLAG = _error("crowd-flag", "values of 'iscrowd' other than 0 and 1", _FIX)
IGNORE = _error(
    "ignore",
    "annotations with 'ignore', which Detectron2 does not support",
    "remove the annotation, or make it a crowd ('iscrowd': 1)",
)
KEYPOINTS = _error("keypoints", "keypoints that are no numbers", _TOOL)
AREA = _error("area", "areas that are no numbers of pixels", _FIX)
AREA_DIFFERS = _warning(
    "area-differs",
    "areas that are not the mask's, by which AP of small, medium and large objects goes",
    _FIX,
)

# Of boxes
BOX = _error("box", "boxes that are not four finite numbers", _FIX)
BOX_NEGATIVE = _error(
    "box-negative",
    "boxes of negative width or height",
    f"boxes are [x, y, width, height]; {_FIX} with boxes of the masks",
)
BOX_EMPTY = _warning(
    "box-empty",
    "boxes without an area: training leaves these objects out, evaluation counts them as missed",
    f"{_FIX} with boxes of the masks; without masks draw them again",
)
BOX_OUTSIDE = _warning("box-outside", "boxes that reach out of their image", _FIX)
BOX_NOWHERE = _warning(
    "box-nowhere",
    "boxes of which no part is in the image: training leaves these objects out, evaluation counts"
    " them as missed",
    "look at box and mask, and correct one",
)
BOX_XYXY = _warning(
    "box-xyxy",
    "boxes that fit as [x1, y1, x2, y2]; they must be [x, y, width, height]",
    "convert all boxes: width = x2 - x1, height = y2 - y1",
)
BOX_NORMALIZED = _warning(
    "box-normalized",
    "boxes in 0..1; they must be in pixels",
    "multiply x and width by the image's width, y and height by its height",
)
BOX_CENTER = _warning(
    "box-center",
    "boxes that fit as [x of the center, y of the center, width, height]; x and y must be the"
    " upper left corner's",
    "subtract half the width and height from x and y",
)
AXES_SWAPPED = _warning(
    "axes-swapped",
    "boxes or masks that fit if x and y are swapped",
    "write x before y in boxes and polygons; arrays are indexed [row, column], that is [y, x]",
)
BOX_DIFFERS = _warning(
    "box-differs", "boxes that are not around their masks", "look at both, and correct one"
)

# Of masks
MASK_MISSING = _error(
    "mask-missing",
    "annotations without a mask ('segmentation')",
    "add the masks, or train a box detector with MODEL.MASK_ON False",
)
MASK_TYPE = _error(
    "mask-type",
    "values of 'segmentation' that are neither polygons nor RLE",
    "write [[x1, y1, x2, y2, ...], ...] or {'size': [height, width], 'counts': ...}",
)
MASK_TOO_LARGE = _error(
    "mask-too-large", "masks of images that are too large for RLE", "cut or shrink the images"
)
MASK_EMPTY = _warning(
    "mask-empty",
    "masks without a pixel: training leaves these objects out, evaluation counts them as missed",
    "draw them again, or remove them",
)
POLYGON_NUMBERS = _error(
    "polygon-numbers", "polygons with what are no coordinates in pixels", _NUMBERS
)
POLYGON_NONE = _error(
    "polygon-none",
    "masks without a polygon of at least 3 points",
    "draw them again, or remove them",
)
POLYGON_POINTS = _warning(
    "polygon-points",
    "polygons of less than 3 points or of an odd count of numbers, which masks go without",
    "draw them again, or remove them",
)
POLYGON_TOO_LONG = _error(
    "polygon-too-long", "polygons with a longer outline than can be drawn", _TOOL
)
POLYGON_OUTSIDE = _warning(
    "polygon-outside", "polygons that reach out of their image, which cuts them off", _FIX
)
POLYGON_NORMALIZED = _warning(
    "polygon-normalized",
    "polygons in 0..1; they must be in pixels",
    "multiply x by the image's width, y by its height",
)
RLE_SIZE = _error("rle-size", "RLE whose 'size' is not its image's [height, width]", _NUMBERS)
RLE_COUNTS = _error(
    "rle-counts",
    "RLE whose 'counts' are damaged",
    f"encode the masks again ({_MENDS})",
)
RLE_ORDER = _warning(
    "rle-order",
    "RLE that fits its box if pixels are counted row by row; COCO counts column by column",
    "encode the masks again, by pycocotools.mask.encode(numpy.asfortranarray(mask))",
)

# Of the whole
OBJECT_TWICE = _warning(
    "object-twice", "objects that are in the file twice", "remove one of each two"
)
NOTHING_TO_TRAIN = _error(
    "nothing-to-train", "no instance to train on", "see what is wrong with the annotations"
)
MORE_THAN_QUERIES = _warning(
    "objects-over-queries",
    "images with more objects than the model can find",
    "raise MODEL.QUERYINST.NUM_QUERIES, or cut the images",
)
MORE_THAN_DETECTIONS = _warning(
    "objects-over-detections",
    "images with more objects than are kept of an image (TEST.DETECTIONS_PER_IMAGE)",
    "raise TEST.DETECTIONS_PER_IMAGE, or cut the images",
)

# Of registered functions
DICTS = _error("dicts", "dicts that are not in Detectron2's format", "correct the function")
DICTS_CONVERSION = _error(
    "dicts-conversion",
    "dicts that evaluation cannot write as JSON",
    "return Python's own numbers and lists, such as int(x) and array.tolist()",
)
