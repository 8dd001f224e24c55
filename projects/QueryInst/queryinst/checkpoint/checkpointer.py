"""Saving and loading of whole models: nothing half written, nothing silently left out."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import IO, Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from .files import read_checkpoint, write_atomically
from .layouts import tensors_of
from .loading import plan_load
from .meta import as_slim, is_slim_meta, read_with_meta, require_plain, without_numpy_scalars
from .slim import is_slim, unused_in_inference

logger = logging.getLogger(__name__)


class QueryInstCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, whose files it reads and which reads its files, made strict.

    A model in evaluation mode must be filled completely. One in training mode may start from a
    backbone or from another class count (`loading.plan_load` has the rules), but not from a slim
    file (`slim.to_slim`). No code that a file holds is executed, and nothing in the model changes
    if its file is refused.
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
            model: its attribute `allow_unloaded`, if any, has the patterns of parameters that a
                file may leave unfilled, its method `make_slim` drops what a slim file lacks;
                DistributedDataParallel is seen through.
            meta: what `save` writes as checkpoint["meta"] (`meta.build_meta`); of kind "slim" if
                the model is.
            checkpointables: objects with state_dict() and load_state_dict(), saved by their names.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        require_plain(meta)
        self.meta = meta

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables, meta and `kwargs` to save_dir/name.pth, the new last one.

        Raises:
            OSError: one line; what was there before is unharmed.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        if os.path.basename(path) != f"{name}.pth":
            raise ValueError(f"checkpoint name {name!r} must be without folders")
        data: dict[str, Any] = {"model": self.model.state_dict()}
        if self.meta is not None:
            data["meta"] = as_slim(self.meta) if is_slim(data["model"]) else self.meta
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data.update(without_numpy_scalars({**states, **kwargs}))
        logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which file in save_dir a training goes on from."""

        def write(file: IO[bytes]) -> None:
            file.write(last_filename_basename.encode())

        write_atomically(os.path.join(self.save_dir, "last_checkpoint"), write)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Go on from save_dir's last checkpoint, or load the weights of `path` if there is none.

        Raises:
            ValueError, OSError: as `load`; a checkpoint to go on from must be complete, with all
                checkpointables.
        """
        if not resume:
            return self.load(path, checkpointables=[])
        if not self.save_dir or not self.has_checkpoint():
            logger.info(
                "Nothing to resume from in %s; starting from MODEL.WEIGHTS %s",
                self.save_dir or "OUTPUT_DIR",
                path or "'' (random weights)",
            )
            return self.load(path, checkpointables=[])
        last = self.get_checkpoint_file()
        note = os.path.join(self.save_dir, "last_checkpoint")
        shown = f"{last} (to resume from, by {note}; remove that to start from MODEL.WEIGHTS)"
        return self._load(last, shown, list(self.checkpointables), complete=True)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights from a path or URL; the class docstring says how much must fit.

        Args:
            path: "" leaves a model that is to be trained as it is.
            checkpointables: names of those to load where the file has them; None for all.

        Returns:
            what else the file held, for instance `meta`.

        Raises:
            ValueError, KeyError, OSError: one line that names the file.
        """
        if not path:
            if not self.model.training:
                raise ValueError("MODEL.WEIGHTS is empty; evaluation and prediction need weights")
            logger.info("MODEL.WEIGHTS is empty: the model starts from random weights")
            return {}
        wanted = list(self.checkpointables) if checkpointables is None else checkpointables
        return self._load(path, f"MODEL.WEIGHTS {path}", wanted, complete=False)

    def _load(
        self, path: str, shown: str, checkpointables: Sequence[str], *, complete: bool
    ) -> dict[str, Any]:
        logger.info("Loading weights from %s", path)
        checkpoint, meta = read_with_meta(path, shown)
        tensors = tensors_of(checkpoint, shown)
        rest = dict(checkpoint) if "model" in checkpoint else {}
        rest.pop("model", None)
        if complete and (missing := [key for key in checkpointables if key not in rest]):
            raise ValueError(f"{shown} holds no state of {', '.join(missing)}")
        self._fill(tensors, shown, complete=complete, slim=is_slim_meta(meta))
        for key in checkpointables:
            if key in rest:
                self._restore(key, rest.pop(key), shown)
        return rest

    def _fill(
        self, tensors: Mapping[str, torch.Tensor], shown: str, *, complete: bool, slim: bool
    ) -> None:
        state = self.model.state_dict()
        dropped = set(unused_in_inference(state)) if slim else set()
        if dropped and self.model.training:
            raise ValueError(
                f"{shown} is slim, for evaluation and prediction alone: it lacks all mask heads but"
                " the last, and training needs every one; start from the full file"
            )
        plan = plan_load(
            {name: value for name, value in state.items() if name not in dropped},
            tensors,
            shown=shown,
            partial=self.model.training,
            allow_unloaded=getattr(self.model, "allow_unloaded", ()),
            complete=complete,
        )
        if slim:
            self._be_slim(shown, bool(dropped))
        for note in plan.notes:
            logger.info("%s", note)
        # Parameters that keep their values are handed to themselves, so that torch is strict too.
        state = self.model.state_dict()
        state.update(plan.tensors)
        self.model.load_state_dict(state, strict=True)

    def _be_slim(self, shown: str, is_full: bool) -> None:
        """Say what is loaded; a model that still has what the file lacks loses it."""
        dropping = "; the others of the model are dropped" if is_full else ""
        logger.info("%s is slim: its one mask head is all that evaluation runs%s", shown, dropping)
        if is_full and hasattr(self.model, "make_slim"):
            self.model.make_slim()

    def _restore(self, key: str, state: Any, shown: str) -> None:
        logger.info("Loading %s", key)
        try:
            self.checkpointables[key].load_state_dict(state)
        except (KeyError, ValueError, RuntimeError) as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"{shown}: its state of {key!r} does not fit ({cause}); resume with the"
                " configuration that it was trained with"
            ) from error

    def _load_file(self, filename: str) -> Any:
        """For callers of the base class: the same safe reading."""
        checkpoint = read_checkpoint(filename, filename)
        return checkpoint if "model" in checkpoint else {"model": checkpoint}
