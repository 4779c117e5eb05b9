"""Make the file of ``PackedImages``: of a folder tree, or of any images."""

from .decoding import FITS, load_image
from .folder import pack_folder
from .images import pack_images
from .listing import EXTENSIONS, Listing, list_images

__all__ = [
    'EXTENSIONS',
    'FITS',
    'Listing',
    'list_images',
    'load_image',
    'pack_folder',
    'pack_images',
]
