"""An explanation as a config describes it."""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Optional, Union

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmkd_plugin.engine.preflight import (
    missing_inputs,
    missing_inputs_message,
)
from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checks import check_count, nearest

from .explain_networks import check_networks, explain_networks
from .explanation import Explanation
from .image_set import ImageSet, load_images
from .protocol import Protocol
from .training_course import TrainingCourse, read_course

_OPTIONS = (
    *('model', 'teacher_model', 'teacher_ckpt', 'student', 'baseline'),
    *('image_sets', 'images', 'folder_pipeline', 'num_images', 'image_seed'),
    *('protocol', 'memory', 'trainings'),
)


class Experiment:
    """Networks, images and protocol of an explanation.

    The config has them under ``explain``:

    * ``model``: config of student and baseline, with its preprocessor;
      ``teacher_model`` if the teacher is another one;
    * ``teacher_ckpt``, ``student``, ``baseline``: the checkpoint of the
      teacher and the work directories of the others, one or a list of the
      phases in their order. Each of the three may be None;
    * ``image_sets``: data sets with foregrounds by name, ``images``: the
      name of the one to take, or a folder with ``images`` and ``masks``,
      which is read with ``folder_pipeline``; ``num_images`` and
      ``image_seed``: how many are drawn from it, and which;
    * ``protocol``: the options of :class:`Protocol`;
    * ``memory``: the budget in bytes of :func:`cell_energy`;
    * ``trainings``: what makes the networks, in order: dicts of ``config``,
      ``work_dir`` and ``makes``, a file that is there when it is done.

    Args:
        config (Config): The config.

    Raises:
        ValueError: If an option is unknown, missing or out of range.
    """

    def __init__(self, config: Config) -> None:
        where = config.filename or 'the config'
        if not isinstance(config.get('explain'), dict):
            raise ValueError(
                f'{where} has no `explain`, which says what to explain; see '
                f'configs/demo/kp_scenes.py'
            )
        options = config.explain
        for name in options:
            if name not in _OPTIONS:
                raise ValueError(
                    f'{where}: explain has no {name!r}; '
                    f'{nearest(name, _OPTIONS)}'
                )
        self.config = config
        self.where = where
        self.model = options.get('model')
        self.teacher_model = options.get('teacher_model')
        self.teacher_ckpt = options.get('teacher_ckpt')
        self.runs = {
            name: _folders(options.get(name))
            for name in ('student', 'baseline')
        }
        self.image_sets = options.get('image_sets') or {}
        self.images = options.get('images')
        self.folder_pipeline = options.get('folder_pipeline')
        self.num_images = options.get('num_images')
        self.image_seed = options.get('image_seed', 0)
        self.memory = check_count(
            'explain.memory', options.get('memory', 1 << 30)
        )
        if not isinstance(options.get('protocol'), dict):
            raise ValueError(f'{where}: explain needs its protocol')
        self.protocol = Protocol.from_options(
            options.protocol.to_dict()
            if hasattr(options.protocol, 'to_dict')
            else options.protocol
        )
        self.trainings = [dict(item) for item in options.get('trainings', ())]
        for item in self.trainings:
            if {*item} != {'config', 'work_dir', 'makes'}:
                raise ValueError(
                    f'{where}: each of explain.trainings must have config, '
                    f'work_dir and makes, but got {item}'
                )
        if self.model is None:
            raise ValueError(
                f'{where}: explain needs model, the config of the student'
            )

    def unfinished(self) -> list[dict]:
        """Find the trainings that are still to be done.

        Returns:
            list[dict]: Those of ``trainings`` in whose folder a network is
            looked for, and whose file is not there.
        """
        folders = [folder for run in self.runs.values() for folder in run]
        if self.teacher_ckpt:
            folders.append(os.path.dirname(self.teacher_ckpt))
        used = {os.path.normpath(folder) for folder in folders}
        return [
            item
            for item in self.trainings
            if os.path.normpath(item['work_dir']) in used
            and not os.path.exists(
                os.path.join(item['work_dir'], item['makes'])
            )
        ]

    def missing_images(self) -> list[str]:
        """Look for what ``required_inputs`` says of the images.

        Returns:
            list[str]: For each file or folder of the chosen set that is not
            there its key, its path and the command that makes it.
        """
        chosen = f'explain.image_sets.{self.images}.'
        inputs = [
            item
            for item in self.config.get('required_inputs', ())
            if item['key'].startswith(chosen)
        ]
        return missing_inputs(self.config, inputs)

    def fail_if_missing(self, problems: list[str], script: str) -> None:
        """Say in one message what is missing.

        Args:
            problems (list[str]): A paragraph for each.
            script (str): The command that was called.

        Raises:
            ValueError: If there is one.
        """
        if not problems:
            return
        message = missing_inputs_message(problems, script)
        if self.unfinished():
            message += (
                '\nor, to make first what the config knows how to train,'
                f'\n      {script} --train'
            )
        raise ValueError(message)

    def read_runs(self, script: str) -> dict[str, Optional[TrainingCourse]]:
        """Read the work directories, and look for the teacher's checkpoint.

        Args:
            script (str): The command that was called, for messages.

        Returns:
            dict[str, TrainingCourse or None]: ``student`` and ``baseline``.

        Raises:
            ValueError: If something is missing, all in one message, each
                with the command that makes it.
        """
        courses, problems = {}, self.missing_images()
        if self.teacher_ckpt and not os.path.isfile(self.teacher_ckpt):
            problems.append(
                f'explain.teacher_ckpt = {self.teacher_ckpt!r}'
                + self._how_to_make([os.path.dirname(self.teacher_ckpt)])
            )
        for name, folders in self.runs.items():
            courses[name] = None
            if not folders:
                continue
            try:
                courses[name] = read_course(folders)
            except ValueError as error:
                problems.append(
                    f'explain.{name}: {error}{self._how_to_make(folders)}'
                )
        self.fail_if_missing(problems, script)
        return courses

    def _how_to_make(self, folders: Sequence[str]) -> str:
        wanted = {os.path.normpath(folder) for folder in folders}
        return ''.join(
            f'\n      make it with: python tools/train.py {item["config"]} '
            f'--work-dir {item["work_dir"]}'
            for item in self.unfinished()
            if os.path.normpath(item['work_dir']) in wanted
        )

    def load_images(self) -> ImageSet:
        """Load the images.

        Returns:
            ImageSet: Images and foregrounds.

        Raises:
            ValueError: If there is no such set, or its images do not do.
        """
        dataset = build_part(
            f'the images {self.images!r}', DATASETS, self._dataset_config()
        )
        return load_images(dataset, self.num_images, self.image_seed)

    def _dataset_config(self) -> dict:
        name = self.images
        if name in self.image_sets:
            return copy.deepcopy(self.image_sets[name])
        known = ', '.join(self.image_sets) or 'none'
        if not isinstance(name, str) or not os.path.isdir(name):
            raise ValueError(
                f'images must be one of explain.image_sets ({known}) or a '
                f'folder with images and masks, but got {name!r}'
            )
        if self.folder_pipeline is None:
            raise ValueError(
                f'{self.where}: for a folder, explain needs folder_pipeline'
            )
        return dict(
            type='FolderWithMasks',
            data_root=name,
            pipeline=copy.deepcopy(self.folder_pipeline),
        )

    def check(
        self, image_set: ImageSet, device: Union[str, torch.device] = 'cpu'
    ) -> None:
        """Try protocol and networks on one image, before the long work.

        Args:
            image_set (ImageSet): What :meth:`load_images` returned.
            device (str or torch.device): Where the networks run. Defaults
                to ``'cpu'``.

        Raises:
            ValueError: If layer, grid, constants or images do not do.
        """
        check_networks(
            image_set,
            self.protocol,
            model=self.model,
            teacher_model=self.teacher_model,
            memory=self.memory,
            device=device,
        )

    def explain(
        self,
        courses: dict[str, Optional[TrainingCourse]],
        image_set: ImageSet,
        device: Union[str, torch.device] = 'cpu',
        progress: Callable[[str], None] = lambda line: None,
    ) -> Explanation:
        """Count the knowledge points.

        Args:
            courses (dict[str, TrainingCourse or None]): What
                :meth:`read_runs` returned.
            image_set (ImageSet): What :meth:`load_images` returned.
            device (str or torch.device): Where the networks run. Defaults
                to ``'cpu'``.
            progress (Callable): Gets a line before every checkpoint.
                Defaults to nothing.

        Returns:
            Explanation: The points, and all that they depend on.
        """
        explanation = explain_networks(
            image_set,
            self.protocol,
            **courses,
            model=self.model,
            teacher=self.teacher_ckpt or None,
            teacher_model=self.teacher_model,
            set_name=str(self.images),
            memory=self.memory,
            device=device,
            progress=progress,
        )
        drawn = self.num_images is not None
        return replace(
            explanation, image_seed=self.image_seed if drawn else None
        )


def _folders(value: Union[str, Sequence[str], None]) -> list[str]:
    if not value:
        return []
    return [value] if isinstance(value, str) else list(value)
