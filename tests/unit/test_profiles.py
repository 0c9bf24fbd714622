"""Profiles are checked before anything is submitted."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.slurm.profiles import Profile, load_profile, profile_names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "slurm.md"
LEAST = {"time": 10, "mem_gb": 2.0}


def test_shipped_profiles_load_and_have_a_summary() -> None:
    assert {"one_gpu", "node_of_8", "cpu", "preemptible", "dev_cluster"} <= set(profile_names())
    assert all(load_profile(name).summary for name in profile_names())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"partion": "main"}, "unknown key 'partion'; did you mean 'partition'?"),
        ({"partition": "main --wrap=x"}, "partition:"),
        ({"gpus": -1}, "gpus: input should be greater than or equal to 0"),
        ({"gpus": "1"}, "gpus: input should be a valid integer"),
        ({"mem_gb": 0}, "mem_gb:"),
        ({"setup": ["module load cuda\nrm x"]}, "setup[0]"),
        ({"setup": "module load cuda"}, "setup: write a list"),
        ({"time": 1, "signal_seconds": 60}, "signal_seconds: 60 leaves nothing of the 1 minutes"),
        ({"cells_per_job": 0}, "cells_per_job:"),
        ({"gpus": 2, "ranks": 3, "cpus": 8}, "ranks: 3 need a GPU each, `gpus` asks for 2"),
        (
            {"gpus": 4, "cells_per_job": 4, "cells_at_once": 4, "cpus": 4},
            "gpus: 4 for ranks: 1 leaves GPUs idle",
        ),
        ({"ranks": 3, "cpus": 2}, "cpus: 2 is less than one for each of the 3 processes"),
        (
            {"cells_at_once": 2, "cpus": 2},
            "cells_at_once: 2 is more than the job's cells; set `cells_per_job`",
        ),
        ({"sbatch": {"time": 5}}, "sbatch: time: write `time` next to `sbatch`; remove it here"),
        ({"sbatch": {"cpus_per_task": 5}}, "sbatch: cpus_per_task: write `cpus` next to"),
        ({"sbatch": {"output": "log"}}, "sbatch: output: the launcher sets it"),
        (
            {"sbatch": {"exclusive": False}},
            "sbatch: exclusive: false: sbatch has no such option; leave it out",
        ),
        (
            {"cells_at_once": 2, "cells_per_job": 4},
            "cpus: 1 is less than one for each of the 2 processes",
        ),
    ],
)
def test_a_wrong_setting_is_refused(more, words) -> None:
    with pytest.raises(UserError) as error:
        parse(Profile, {**LEAST, **more}, "my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert words in str(error.value)


def test_a_misspelt_name_and_a_missing_file(tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"--profile one_gpus: no shipped profile; did you mean 'one_gpu'\?"
    ):
        load_profile("one_gpus")
    with pytest.raises(UserError, match=r"cannot read .*mine\.yaml"):
        load_profile(str(tmp_path / "mine.yaml"))


def test_the_profile_of_the_documentation_is_valid() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (block,) = (
        block
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        if "cells_per_job" in block
    )
    profile = parse(Profile, YAML(typ="safe").load(block), "slurm.md")
    assert f"({profile.threads} threads each)" in block


def test_omitted_settings_are_left_to_the_cluster() -> None:
    settings = {
        key: value
        for key, value in parse(Profile, LEAST, "").parameters().items()
        if value is not None
    }
    assert not settings.keys() & {
        "gpus_per_node",
        "slurm_partition",
        "slurm_account",
        "slurm_qos",
        "slurm_setup",
    }
    assert settings["slurm_additional_parameters"] == {"requeue": True}
    for more in (
        {"signal": "CONT@1"},
        {"gpus-per-node": 2},
        {"exclusive": True},
    ):  # settings that some clusters need and for which there is no key
        assert parse(Profile, {**LEAST, "sbatch": more}, "").parameters()[
            "slurm_additional_parameters"
        ] == {"requeue": True, **more}
    never = parse(
        Profile, {**LEAST, "requeue": False, "sbatch": {"exclude": "n7"}}, ""
    ).parameters()
    assert never["slurm_additional_parameters"] == {"no-requeue": True, "exclude": "n7"}
