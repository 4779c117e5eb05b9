"""Package metadata."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = {}
exec((here / 'mmkd_plugin' / 'version.py').read_text(), version)

setup(
    name='mmkd_plugin',
    version=version['__version__'],
    description='Knowledge distillation for the OpenMMLab stack',
    long_description=(here / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmkd_plugin', 'mmkd_plugin.*']),
    python_requires='>=3.10',
    # The engine is an extra: two families of distributions provide it, and
    # installing one over the other destroys both.
    install_requires=[
        'torch>=2.6',
        'torchvision>=0.21',
        'numpy',
        'pillow>=10',
        'matplotlib>=3.5',
        # The shipped configs write curves for it.
        'tensorboard',
    ],
    extras_require={
        'onedl': [
            'onedl-mmengine>=0.10.12',
            'onedl-mmcv>=2.3.6',
            'onedl-mmpretrain>=1.3.6',
        ],
        'openmmlab': [
            'mmengine>=0.11.0rc3',
            'mmcv-lite>=2.1.0',
            'mmpretrain>=1.2.0',
        ],
        # Outlines of COCO-style data.
        'coco': ['pycocotools>=2.0.8'],
        'tests': [
            'pytest>=7',
            'pytest-xdist>=3.7',
            'ruff',
            'pycocotools>=2.0.8',
            'scikit-learn>=1.0',
            'timm>=1.0',
            'onnx>=1.16',
            'onnxruntime>=1.18',
            'onnxscript>=0.1',
        ],
    },
)
