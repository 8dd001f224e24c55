"""Saves and loads whole models: writes all or nothing, never loads a part in silence."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import IO, Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from .content import Content
from .files import read_checkpoint, write_atomically
from .fitting import num_classes_of
from .inference_only import is_inference_only, training_only_names
from .loading import match_state_dict
from .meta import (
    LaterFormatError,
    as_inference_only,
    is_inference_only_meta,
    require_plain,
    without_numpy_scalars,
)
from .resuming import (
    TAG,
    candidates,
    check_iteration,
    check_optimizer,
    check_resumable,
    has_checkpoint,
    remove_leftovers,
)
from .tensors import first_non_finite, named_tensors

logger = logging.getLogger(__name__)

# Checkpointables that files from before they existed lack; what resumes says so.
_MAY_BE_MISSING = ("sampler", "rng", "ema")


class QueryInstCheckpointer(DetectionCheckpointer):
    """A strict version of Detectron2's checkpointer; each reads the files of the other.

    For a model in evaluation mode no key may be missing. A model in training mode can start from a
    backbone or another class count (`loading.match_state_dict` has the rules), but not from an
    inference-only file (`inference_only.to_inference_only`). Never executes code that a file holds.
    If a file is refused, the model is unchanged. What is loaded gives the model the attribute
    `thing_classes`, the names of its classes; () if the file has none that fit.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        meta: dict[str, Any] | None = None,
        **checkpointables: Any,
    ):
        """
        Args:
            model: its attribute `allow_unloaded`, if any, has patterns of parameters that a file
                may lack; its method `make_inference_only` removes what an inference-only file
                lacks. Can be wrapped in DistributedDataParallel.
            meta: what `save` writes as checkpoint["meta"] (`meta.build_meta`), as inference-only
                if the model is.
            checkpointables: objects with state_dict() and load_state_dict(), by name.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        require_plain(meta)
        self.meta = meta

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables, meta and `kwargs` to save_dir/name.pth, and tag it.

        Raises:
            FloatingPointError: a tensor has values that are not finite; nothing is written or
                tagged. One line with its name.
            OSError: the file cannot be written; existing files are unchanged. One line.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        if os.path.basename(path) != f"{name}.pth":
            raise ValueError(f"checkpoint name {name!r} must not contain folders")
        data: dict[str, Any] = {"model": self._weights()}
        if self.meta is not None:
            data["meta"] = (
                as_inference_only(self.meta) if is_inference_only(data["model"]) else self.meta
            )
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data.update(without_numpy_scalars({**states, **kwargs}))
        if (name_of_tensor := first_non_finite(named_tensors(data))) is not None:
            raise FloatingPointError(
                f"{path} is not written: its tensor {name_of_tensor} has values that are not"
                " finite; earlier checkpoints are as they were"
            )
        remove_leftovers(self.save_dir)
        logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(f"{name}.pth")

    def _weights(self) -> dict[str, torch.Tensor]:
        """What is written as "model"."""
        return self.model.state_dict()

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write which file in save_dir --resume starts from."""

        def write(file: IO[bytes]) -> None:
            file.write(last_filename_basename.encode())

        write_atomically(os.path.join(self.save_dir, TAG), write)

    def has_checkpoint(self) -> bool:
        """Whether save_dir has something to resume from, readable or not."""
        return has_checkpoint(self.save_dir)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from save_dir's newest readable checkpoint, or load `path` if it has none.

        A checkpoint that is missing, damaged, not finite or incomplete is passed over with a
        warning; one that does not fit the model is an error. Of several processes the main one
        chooses: they all call this, and save_dir is on a disk that they share.

        Raises:
            ValueError, OSError: as `load`; or no checkpoint in save_dir can be read.
        """
        if not resume:
            return self.load(path, checkpointables=[])
        if not self.has_checkpoint():
            logger.info(
                "Nothing to resume from in %s; starting from MODEL.WEIGHTS %s",
                self.save_dir or "OUTPUT_DIR",
                path or "'' (random weights)",
            )
            return self.load(path, checkpointables=[])
        content = self._newest_readable()
        return self._apply(content, list(self.checkpointables), complete=True)

    def _newest_readable(self) -> Content:
        content: Content | Exception | None = None
        if comm.is_main_process():
            try:
                content = self._try_candidates()
            except (OSError, ValueError) as error:
                content = error
        chosen = content.path if isinstance(content, Content) else content
        chosen = comm.all_gather(chosen)[0]
        if isinstance(chosen, Exception):
            raise chosen
        if not isinstance(content, Content):
            content = self._read_to_resume(chosen, f"{chosen} (to resume from)")
        logger.info("Resuming from %s", content.path)
        return content

    def _try_candidates(self) -> Content:
        names, problems = candidates(self.save_dir)
        for name in names:
            path = os.path.join(self.save_dir, name)
            tag = "" if problems else f", by {os.path.join(self.save_dir, TAG)}"
            try:
                content = self._read_to_resume(path, f"{path} (to resume from{tag})")
            except LaterFormatError:
                raise
            except (OSError, ValueError) as error:
                problems.append(str(error))
                continue
            for problem in problems:
                logger.warning("%s; resuming from %s instead", problem, path)
            return content
        raise ValueError(
            f"no checkpoint in {self.save_dir} can be resumed from; put one there that can, from a"
            f" copy for instance: {'; '.join(problems)}"
        )

    def _read_to_resume(self, path: str, label: str) -> Content:
        """What a checkpoint holds, if it holds all that a run needs, and nothing damaged."""
        content = Content.read(path, label)
        names = [x for x in self.checkpointables if x in content.rest or x not in _MAY_BE_MISSING]
        if missing := [key for key in names if key not in content.rest]:
            raise ValueError(f"{label} holds no state of {', '.join(missing)}")
        resumed = {key: content.rest[key] for key in names}
        check_iteration(content.rest, label)
        check_resumable(content.tensors, resumed, label)
        return content

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights from a path or URL; the class docstring has the rules.

        Args:
            path: "" leaves a model in training mode as it is.
            checkpointables: names of those to load if the file has them; None for all.

        Returns:
            What else the file holds, for instance `meta`.

        Raises:
            ValueError, KeyError, OSError: the file cannot be read or does not fit. One line that
                names the file.
        """
        if not path:
            if not self.model.training:
                raise ValueError("MODEL.WEIGHTS is empty; evaluation and prediction need weights")
            logger.info("MODEL.WEIGHTS is empty: the model starts from random weights")
            return {}
        names = list(self.checkpointables) if checkpointables is None else checkpointables
        return self._load(path, f"MODEL.WEIGHTS {path}", names)

    def _load(self, path: str, label: str, checkpointables: Sequence[str]) -> dict[str, Any]:
        logger.info("Loading weights from %s", path)
        return self._apply(Content.read(path, label), checkpointables, complete=False)

    def _apply(
        self, content: Content, checkpointables: Sequence[str], *, complete: bool
    ) -> dict[str, Any]:
        rest = dict(content.rest)
        self._fill(
            content.tensors,
            content.label,
            complete=complete,
            inference_only=is_inference_only_meta(content.meta),
        )
        num_classes = num_classes_of(self.model.state_dict())
        names = content.thing_classes if len(content.thing_classes) == num_classes else ()
        self.model.thing_classes = names
        for key in checkpointables:
            if key in rest:
                self._restore(key, rest.pop(key), content.label)
        return rest

    def _fill(
        self,
        tensors: Mapping[str, torch.Tensor],
        label: str,
        *,
        complete: bool,
        inference_only: bool,
    ) -> None:
        state = self.model.state_dict()
        removed = set(training_only_names(state)) if inference_only else set()
        if removed and self.model.training:
            raise ValueError(
                f"{label} is inference-only: it has only the last mask head, and training needs"
                " every one; start from the full file"
            )
        matched = match_state_dict(
            {name: value for name, value in state.items() if name not in removed},
            tensors,
            label=label,
            partial=self.model.training,
            allow_unloaded=getattr(self.model, "allow_unloaded", ()),
            complete=complete,
        )
        if inference_only:
            self._become_inference_only(label, bool(removed))
        for note in matched.notes:
            logger.info("%s", note)
        # A parameter without a tensor gets its own value, so that torch can be strict too.
        state = self.model.state_dict()
        state.update(matched.tensors)
        self.model.load_state_dict(state, strict=True)

    def _become_inference_only(self, label: str, is_full: bool) -> None:
        """Log what is loaded, and remove what the file lacks from a full model."""
        removal = "; the model's others are removed" if is_full else ""
        logger.info("%s is inference-only: it has only the last mask head%s", label, removal)
        if is_full and hasattr(self.model, "make_inference_only"):
            self.model.make_inference_only()

    def _restore(self, key: str, state: Any, label: str) -> None:
        logger.debug("Loading %s", key)
        try:
            self.checkpointables[key].load_state_dict(state)
            check_optimizer(self.checkpointables[key])
        except Exception as error:  # a state of other types raises nearly anything
            cause = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise ValueError(
                f"{label}: its state of {key!r} does not fit ({cause}); resume with the"
                " configuration of its training"
            ) from error

    def _load_file(self, filename: str) -> Any:
        """For callers of the base class: the same safe reader."""
        checkpoint = read_checkpoint(filename, filename)
        return checkpoint if "model" in checkpoint else {"model": checkpoint}
