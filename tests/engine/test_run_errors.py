"""What a run says that cannot work: one line on stderr, last, and the exit status."""

import json
import logging

import pytest
import torch

from queryinst.data.registration import register_from_args
from queryinst.engine import main, run
from queryinst.engine.checks import check_run
from queryinst.modeling.meta_arch import QueryInst
from queryinst.testing import tiny_cfg

PREFIX = "train_net.py: error: "


@pytest.fixture
def fails(make_args, capsys):
    """A function that runs, sees it fail, and gives the line."""

    def check(*opts, status=1, **flags):
        assert run(make_args(*opts, **flags)) == status
        lines = capsys.readouterr().err.strip().splitlines()
        assert [line for line in lines if line.startswith(PREFIX)] == lines[-1:]
        assert not any(line.startswith("Traceback") for line in lines)
        return lines[-1].removeprefix(PREFIX)

    return check


@pytest.fixture
def log(tmp_path):
    return lambda: (tmp_path / "output" / "log.txt").read_text()


@pytest.mark.parametrize(
    "opts, line",
    [
        (["SOLVER.MAX_ITERS", "3"], "unknown key SOLVER.MAX_ITERS in the command line; did you"),
        (["SOLVER.MAX_ITER", "x"], "SOLVER.MAX_ITER in the command line is x, of type str"),
    ],
)
def test_run_ends_with_status_2_for_an_invalid_configuration(fails, opts, line, tmp_path):
    assert fails(*opts, status=2).startswith(line)
    assert not (tmp_path / "output").exists()


def test_run_ends_with_status_2_for_a_missing_config_file(fails):
    assert "nowhere.yaml does not exist" in fails(status=2, config_file="nowhere.yaml")


@pytest.mark.parametrize(
    "key, value, line",
    [
        ("SOLVER.IMS_PER_BATCH", "0", "0 must be >= 1"),
        ("SOLVER.REFERENCE_WORLD_SIZE", "3", "a batch of 2 images cannot be shared by 3"),
        ("SOLVER.ACCUMULATE_STEPS", "3", "3 parts of the 2 images of a process must be"),
        ("SOLVER.ACCUMULATE_STEPS", "0", "0 must be >= 1"),
        ("SOLVER.MAX_ITER", "0", "0 must be >= 1"),
        ("SOLVER.BASE_LR", "0.0", "0.0 must be > 0"),
        ("SOLVER.OPTIMIZER", "ADAM", "'ADAM' must be one of ADAMW, SGD"),
        ("SOLVER.CHECKPOINT_PERIOD", "0", "0 must be >= 1"),
        ("SOLVER.CHECKPOINT_KEEP", "-1", "-1 must be >= 0"),
        ("SOLVER.AMP.ENABLED", "True", "fp16 needs a GPU, MODEL.DEVICE is 'cpu'"),
        ("SOLVER.AMP.PRECISION", "half", "'half' must be one of fp16, bf16"),
        ("TEST.PRECISION", "fp16", "fp16 needs a GPU, MODEL.DEVICE is 'cpu'"),
        ("TEST.PRECISION", "half", "'half' must be one of fp32, fp16, bf16"),
        ("DATALOADER.NUM_WORKERS", "-1", "-1 must be >= 0"),
        (
            "MODEL.QUERYINST.INFERENCE_ONLY",
            "True",
            "MODEL.QUERYINST.INFERENCE_ONLY is True: the model has only the last",
        ),
        (
            "MODEL.QUERYINST.ACTIVATION_CHECKPOINTING",
            "('neck',)",
            "'neck' must be one of backbone, box",
        ),
        ("DATASETS.TRAIN", "('nobody',)", "DATASETS.TRAIN names 'nobody', which is not a reg"),
        ("DATASETS.TRAIN", "()", "DATASETS.TRAIN is empty"),
        ("DATASETS.TEST", "('tiny_vel',)", "DATASETS.TEST names 'tiny_vel', which is not"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "80", "data set 'tiny_train' has 3 classes (ellipse, "),
        ("MODEL.QUERYINST.NUM_QUERIES", "0", "0 must be >= 1"),
        ("MODEL.QUERYINST.NUM_STAGES", "0", "0 must be >= 1"),
        ("MODEL.QUERYINST.NUM_HEADS", "3", "16 channels must be a multiple of 3 heads"),
        ("MODEL.FPN.OUT_CHANNELS", "32", "feature p2 has 32 channels"),
        ("MODEL.PIXEL_STD", "(58.4, 0.0, 57.4)", "0.0 must be >= 0.001 (the channels are divided"),
        ("SOLVER.MOMENTUM", "2.0", "2.0 must be < 1 (from 1 on old gradients never fade)"),
        ("MODEL.QUERYINST.NUM_CLS_FCS", "1000000", "1000000 must be <= 50"),
        ("TEST.DETECTIONS_PER_IMAGE", "0", "0 must be >= 1"),
        ("MODEL.ROI_MASK_HEAD.NORM", "XBN", "'XBN' must be one of '', BN, SyncBN"),
    ],
)
def test_run_refuses_invalid_values(fails, log, key, value, line):
    said = fails(key, value)
    assert said.startswith(line) and key.rpartition(".")[2] in said
    assert line in log() and "Traceback" in log()


def test_run_names_the_key_in_training_without_a_gpu(fails, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "MODEL.DEVICE cpu" in fails("MODEL.DEVICE", "cuda")


def test_check_run_refuses_a_batch_that_the_processes_cannot_share(monkeypatch):
    monkeypatch.setattr("queryinst.engine.checks.comm.get_world_size", lambda: 2)
    with pytest.raises(ValueError) as refused:
        check_run(tiny_cfg(SOLVER__IMS_PER_BATCH=3), training=True)
    assert str(refused.value) == (
        "a batch of 3 images cannot be shared by 2 processes; set SOLVER.IMS_PER_BATCH or "
        "--num-gpus"
    )


@pytest.mark.parametrize("place", ["a file", "a file/below", "/proc/queryinst"])
def test_run_refuses_an_output_folder_that_cannot_be_written_to(fails, tmp_path, place):
    (tmp_path / "a file").touch()
    path = place if place.startswith("/") else str(tmp_path / place)
    said = fails("OUTPUT_DIR", path)
    assert said.startswith(f"cannot write to '{path}'") and said.endswith("set OUTPUT_DIR")


def test_run_refuses_an_empty_output_folder(fails):
    assert fails("OUTPUT_DIR", "").startswith("OUTPUT_DIR is empty")


@pytest.mark.parametrize("index, what", [(1, "file"), (2, "folder")])
def test_run_refuses_a_dataset_argument_with_missing_files(fails, tiny_data, tmp_path, index, what):
    triple = ["other", *tiny_data.dataset_args[0][1:]]
    triple[index] = str(tmp_path / "gone")
    assert fails(dataset=[triple]) == f"--dataset other: there is no {what} {tmp_path / 'gone'}"


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda content: "{", "is not valid JSON"),
        (lambda content: json.dumps({"images": []}), "'annotations'"),
        (lambda content: json.dumps(without_masks(content)), "MODEL.MASK_ON"),
    ],
)
def test_run_refuses_invalid_annotations(fails, tiny_data, tmp_path, change, line):
    _, json_file, image_root = tiny_data.dataset_args[0]
    path = tmp_path / "changed.json"
    with open(json_file) as file:
        path.write_text(change(json.load(file)))
    name = f"changed_{abs(hash(str(path)))}"
    said = fails("DATASETS.TRAIN", f"('{name}',)", dataset=[[name, str(path), image_root]])
    assert line in said and (name in said or str(path) in said)


def without_masks(content):
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    return content


def test_run_refuses_an_inference_only_model_before_reading_data(fails):
    said = fails("MODEL.QUERYINST.INFERENCE_ONLY", "True", "DATASETS.TRAIN", "('nobody',)")
    assert "training needs those of all stages; set MODEL.QUERYINST.INFERENCE_ONLY False" in said


def test_run_refuses_evaluation_without_weights(fails):
    flags = {"eval_only": True, "DATASETS.TEST": "('tiny_val',)"}
    opts = ["DATASETS.TEST", flags.pop("DATASETS.TEST")]
    assert fails(*opts, **flags).startswith("--eval-only needs weights; set MODEL.WEIGHTS")
    said = fails(*opts, **flags, resume=True)
    assert "there is no last_checkpoint in" in said


def test_run_refuses_evaluation_without_a_data_set(fails):
    assert fails("MODEL.WEIGHTS", "x.pth", eval_only=True).startswith("DATASETS.TEST is empty")


@pytest.mark.parametrize(
    "content, line",
    [
        (None, "does not exist"),
        (b"PK\x03\x04 and no more", "is truncated or damaged"),
        (b"<html>", "is not a checkpoint"),
        ("classifier", "weights of another architecture"),
    ],
)
def test_run_refuses_weights_that_cannot_be_loaded(fails, log, tmp_path, content, line):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save({"model": {"classifier.weight": torch.zeros(2, 2)}}, path)
    said = fails("MODEL.WEIGHTS", path)
    assert said.startswith(f"MODEL.WEIGHTS {path}") and line in said
    assert "Traceback" in log()


def test_run_names_batch_and_keys_if_cuda_is_out_of_memory(fails, monkeypatch, tmp_path):
    def forward(self, batched_inputs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 GiB.")

    monkeypatch.setattr(QueryInst, "forward", forward)
    said = fails("DATASETS.TEST", "('tiny_val',)")
    assert said.startswith("CUDA out of memory in iteration 0, with images /")
    assert said.count(".png") == 2 and "(64x64, 64x64 pixels, " in said and "instances)" in said
    for key in ("SOLVER.IMS_PER_BATCH", "INPUT.MIN_SIZE_TRAIN", "MODEL.QUERYINST.NUM_QUERIES"):
        assert key in said
    assert not (tmp_path / "output" / "results.json").exists()  # no evaluation after a failure


def test_run_names_other_keys_if_cuda_is_out_of_memory_in_evaluation(fails, monkeypatch):
    forward = QueryInst.forward

    def evaluation_fails(self, batched_inputs):
        if self.training:
            return forward(self, batched_inputs)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(QueryInst, "forward", evaluation_fails)
    said = fails("DATASETS.TEST", "('tiny_val',)", "SOLVER.MAX_ITER", "1")
    assert said.startswith("CUDA out of memory in evaluation, with images /")
    assert said.count(".png") == 1 and "INPUT.MIN_SIZE_TEST" in said


@pytest.mark.parametrize(
    "parameter, line",
    [
        ("cascade.stages.1.cls_logits.bias", "stage 1, image 0 (/"),
        ("mask_head.stages.0.mask_logits.bias", "loss_mask_stage0 is nan; in images /"),
    ],
)
def test_run_ends_with_losses_that_are_not_finite_and_keeps_the_last_checkpoint(
    fails, make_args, monkeypatch, tmp_path, parameter, line
):
    forward, steps = QueryInst.forward, []

    def poisoned(self, batched_inputs):
        steps.append(None)
        if len(steps) == 3:
            self.get_parameter(parameter).data.fill_(float("nan"))
        return forward(self, batched_inputs)

    monkeypatch.setattr(QueryInst, "forward", poisoned)
    opts = ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2"]
    said = fails(*opts)
    assert said.startswith(f"iteration 2: {line}") and said.count(".png") >= 2
    assert "the last checkpoint is as it was" in said
    output = tmp_path / "output"
    assert (output / "last_checkpoint").read_text() == "model_0000001.pth"
    saved = torch.load(output / "model_0000001.pth")
    assert all(value.isfinite().all() for value in saved["model"].values())
    main(make_args(*opts, resume=True))
    assert len(steps) == 5 and (output / "model_final.pth").exists()


def test_run_quotes_a_loaders_worker_in_one_line(fails, tmp_path, tiny_data, log):
    content = json.loads(open(tiny_data.dataset_args[0][1]).read())
    root = tmp_path / "images"
    root.mkdir()
    for image in content["images"][:-1]:
        (root / image["file_name"]).symlink_to(
            tiny_data.root / "shapes" / "train" / image["file_name"]
        )
    name = content["images"][-1]["file_name"]
    damaged = bytearray((tiny_data.root / "shapes" / "train" / name).read_bytes())
    damaged[-40:-20] = bytes(20)  # its header is right
    (root / name).write_bytes(damaged)
    triple = ["with_broken", tiny_data.dataset_args[0][1], str(root)]
    said = fails(
        *("DATASETS.TRAIN", "('with_broken',)", "DATALOADER.NUM_WORKERS", "1"),
        *("SOLVER.MAX_ITER", "9"),
        dataset=[triple],
    )
    assert said.startswith(f"cannot read image {root / name}") and "DataLoader" not in said
    assert "DataLoader worker process" in log()


def test_run_names_the_place_of_an_unexpected_errors_traceback(fails, monkeypatch, log):
    def forward(self, batched_inputs):
        return batched_inputs + 1

    monkeypatch.setattr(QueryInst, "forward", forward)
    said = fails()
    assert said.startswith("TypeError: ") and said.endswith("output/log.txt")
    assert log().count("Traceback") == 1


def test_run_ends_with_status_130_if_interrupted(fails, monkeypatch, tmp_path):
    def forward(self, batched_inputs):
        raise KeyboardInterrupt

    monkeypatch.setattr(QueryInst, "forward", forward)
    assert fails("DATASETS.TEST", "('tiny_val',)", status=130) == "interrupted"
    assert not (tmp_path / "output" / "results.json").exists()


def test_main_raises_what_run_says(make_args):
    with pytest.raises(ValueError, match="0 must be >= 1; set SOLVER.IMS_PER_BATCH"):
        main(make_args("SOLVER.IMS_PER_BATCH", "0"))


def test_run_prints_one_line_and_no_traceback(fails, capsys, make_args, monkeypatch):
    def forward(self, batched_inputs):
        raise ValueError("set X")

    monkeypatch.setattr(QueryInst, "forward", forward)
    assert run(make_args()) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "Starting training from iteration 0" in captured.out
    assert logging.getLogger("detectron2.engine.train_loop").filters == []


def test_run_refuses_a_name_of_other_data(fails, tiny_data):
    register_from_args(tiny_data.dataset_args)  # twice is no error
    train, val = tiny_data.dataset_args
    assert "another data set has this name" in fails(dataset=[["tiny_train", *val[1:]]])
