"""What is said of a configuration before a training, though it could run."""

import pytest

from queryinst.engine import main, setup_cfg
from queryinst.engine.checks import check_best_metric, check_dataset_args

CLASSES = ("ellipse", "triangle", "star")


def test_a_data_set_that_the_run_does_not_name_is_an_error(tiny_data, make_args):
    with pytest.raises(ValueError, match="^--dataset tiny_val is named by neither DATASETS.TRAIN"):
        main(make_args(dataset=tiny_data.dataset_args))
    args = make_args("DATASETS.TEST", "('tiny_val',)")
    check_dataset_args(setup_cfg(args.config_file, args.opts), tiny_data.dataset_args)


@pytest.mark.parametrize(
    "metric, near",
    [
        ("segm/ap50", "; did you mean segm/AP50"),
        ("mask/AP", "; did you mean segm/AP"),
        ("box/ap75", "; did you mean bbox/AP75"),
        ("segm/AP-stars", "segm/AP-star"),
        ("zzz/qqq", "set one of segm/AP, bbox/AP, segm/AP50"),
    ],
)
def test_a_misspelt_metric_is_an_error_with_those_that_are_near(make_cfg, metric, near):
    cfg = make_cfg("DATASETS.TEST", "('tiny_val',)", "TEST.BEST_METRIC", metric)
    with pytest.raises(ValueError) as error:
        check_best_metric(cfg, CLASSES)
    said = str(error.value)
    assert said.startswith(f"TEST.BEST_METRIC {metric!r} is no metric of the data set 'tiny_val'")
    assert near in said


@pytest.mark.parametrize(
    "metric, opts",
    [
        ("segm/AP", ()),
        ("bbox/APs", ()),
        ("segm/AP-triangle", ()),
        ("segm/AP75", ("MODEL.MASK_ON", False)),  # counts as bbox/AP75
        ("bbox/AP", ("DATASETS.TEST", "('tiny_val', 'tiny_train')")),
        ("nothing/x", ("DATASETS.TEST", "()")),
    ],
)
def test_a_metric_of_the_evaluation_is_right(make_cfg, metric, opts):
    cfg = make_cfg("DATASETS.TEST", "('tiny_val',)", "TEST.BEST_METRIC", metric, *opts)
    check_best_metric(cfg, CLASSES)


def test_a_misspelt_metric_ends_the_run_before_its_first_step(make_args, tmp_path):
    with pytest.raises(ValueError, match="did you mean segm/AP-star"):
        main(make_args("DATASETS.TEST", "('tiny_val',)", "TEST.BEST_METRIC", "segm/AP-Star"))
    assert not (tmp_path / "output" / "model_final.pth").exists()


@pytest.mark.parametrize("warmup, is_said", [(1, False), (2, True), (999, True)])
def test_a_warmup_that_never_ends_is_a_warning(make_args, tmp_path, warmup, is_said):
    main(make_args("SOLVER.WARMUP_ITERS", warmup, "SOLVER.STEPS", "(1, 30, 40)"))
    log = (tmp_path / "output" / "log.txt").read_text()
    said = f"SOLVER.WARMUP_ITERS {warmup} is not below SOLVER.MAX_ITER 2: the learning rate never"
    assert (said in log) == is_said
    assert log.count("SOLVER.STEPS 30, 40: behind the last iteration") == 1
