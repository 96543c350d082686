"""A folder of GIF, WebP or MP4 videos of any size and length."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from typing import SupportsIndex

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from ssd_jax.data.encoded import ImageLook, Readable
from ssd_jax.data.folder import class_folders, labels_of
from ssd_jax.errors import InputError, few
from ssd_jax.files.crops import CROPS
from ssd_jax.files.listing import fingerprint, list_videos
from ssd_jax.files.paths import to_path
from ssd_jax.files.videos import count_frames, read_frames

logger = logging.getLogger(__name__)


class VideoSource:
    """Clips of the videos below a folder, their frames cropped and resized; first-level sub-folders are the classes.

    A video of F frames makes F // frames clips: its first `frames` frames, those that follow, and so on, each an item; what
    is left at its end is not used. Frames are taken as they are stored, however long each is shown. Shorter videos and
    those that cannot be opened are left out by name. A clip that cannot be read later is reported by name, and is None.

    All files are opened once, to count their frames; a GIF is read through for it.

    Args:
        folder: searched by `list_videos`.
        look: that frames are given, of shape (frames, h, w); 3 channels if it has none.

    Raises:
        InputError: if the folder is missing or holds no video, or none that can be opened is long enough.
    """

    def __init__(self, folder: str, look: ImageLook):
        self._root, self._look, self.channels = to_path(folder), look, look.channels or 3
        listed = list_videos(self._root)
        self.class_names = class_folders(listed)
        clips = [(path, first) for path, count in self._counted(listed) for first in self._firsts(count)]
        self._paths, self._first = [path for path, _ in clips], [first for _, first in clips]
        self.labels = labels_of(self._paths, self.class_names)
        self._tried = Readable("a clip of", self._paths, str(self._root)).tried

    @cached_property
    def fingerprint(self) -> str:
        """Of the names, sizes and times of its videos, and of how they are cut."""
        files = fingerprint(self._root, dict.fromkeys(self._paths))
        return f"video {self._look.crop} {self._look.shape} {files}"

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        clip = self._tried(int(index), partial(self._read, int(index)))
        return None if clip is None else {"image": clip, "label": self.labels[int(index)]}

    def _read(self, index: int) -> UInt8[np.ndarray, "frames h w channels"]:
        (count, *shape), first, crop = self._look.shape, self._first[index], CROPS[self._look.crop]
        frames = read_frames(self._root / self._paths[index], first, self.channels, self._look.background)
        clip = [crop(frame, tuple(shape)) for frame in islice(frames, count)]
        if len(clip) < count:
            raise InputError(f"it ends after {first + len(clip)} frames, before its header says")
        return np.stack(clip)

    def _firsts(self, count: int) -> range:
        """First frames of the clips of a video of so many."""
        frames = self._look.shape[0]
        return range(0, count - frames + 1, frames)

    def _counted(self, listed: list[str]) -> list[tuple[str, int]]:
        """The videos that are long enough, and how many frames they have."""
        tried = Readable("video", listed, str(self._root)).tried
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            counts = pool.map(lambda i: tried(i, partial(count_frames, self._root / listed[i])), range(len(listed)))
            counted = list(tqdm(counts, "opening videos", len(listed), leave=False, unit="file"))
        opened = {path: count for path, count in zip(listed, counted, strict=True) if count is not None}
        frames, folder = self._look.shape[0], str(self._root)
        short = [f"{path} ({count})" for path, count in opened.items() if count < frames]
        if not opened:
            raise InputError(f"none of {len(listed)} videos of {folder!r} can be opened; the warnings say why")
        if len(short) == len(opened):
            raise InputError(
                f"all videos of {folder!r} have fewer than {frames} frames, which process.shape asks for: {few(short)}; "
                "set --config.process.shape to fewer, or give longer ones"
            )
        if short:
            logger.warning("%r: left out videos of fewer than %d frames: %s", folder, frames, few(short))
        return [(path, count) for path, count in opened.items() if count >= frames]
