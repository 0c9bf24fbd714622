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
        ({"partition": "main --wrap=x"}, "partition: write one word without spaces, got"),
        ({"setup": ["a\nb"]}, "setup[0]: write one line of text, got"),
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
        *(
            ({"sbatch": {name: "x"}}, f"sbatch: {name}: the launcher sets it: ")
            for name in (
                *("output", "error", "open-mode", "open_mode", "array", "job_name", "input"),
                *("export", "export_file", "parsable", "quiet", "test-only", "wait", "wrap"),
                *("chdir", "nodes", "ntasks", "ntasks_per_core", "clusters", "uid"),
                *("outp", "expor", "pars", "chd", "test"),  # sbatch completes these
            )
        ),
        *(
            ({"sbatch": {name: "x"}}, f"sbatch: {name}: write `{key}` next to `sbatch`")
            for name, key in {
                "signal": "signal_seconds",
                "sig": "signal_seconds",
                "mem_per_cpu": "mem_gb",
                "no_requeue": "requeue",
                "requ": "requeue",
            }.items()
        ),
        *(
            ({"sbatch": {name: True}}, f"sbatch: {name}: write the long name of an option")
            for name in ("J", "o", "e", "--signal", "-J", "signal=USR1@10", "Signal", "_x")
        ),
        ({"mem_gb": 0.0001}, "mem_gb: 0.0001 is less than 1 MB"),
        ({"time": 0}, "time: input should be greater than 0"),
        *(
            ({"time": value}, f"time: '{value}' is not a time; write minutes (240), HH:MM:SS")
            for value in ("04:00", "1 day", "UNLIMITED", "1-24:00:00", "1:60:00", "-5", "")
        ),
        ({"time": "00:00:00"}, "time: input should be greater than 0"),
        ({"time": 90.5}, "time: input should be a valid integer"),
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


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        ("90", 90),
        ("'90'", 90),
        ("04:00:00", 240),
        ("4:00:00", 240),
        ("00:00:30", 1),
        ("1-12:00:00", 2160),
        ("1-12:30", 2190),
        ("2-0", 2880),
        ("30:00:00", 1800),
    ],
)
def test_times_as_sbatch_writes_them(tmp_path, written: str, minutes: int) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"time: {written}\nmem_gb: 2\nsignal_seconds: 10\n")
    assert load_profile(str(path)).parameters()["timeout_min"] == minutes


def test_memory_is_rounded_up() -> None:
    """SLURM counts in MB and takes 0 as all memory of a node."""
    for given, megabytes in ((1 / 1024, 1), (0.0015, 2), (2.5, 2560), (64, 65536)):
        parameters = parse(Profile, {**LEAST, "mem_gb": given}, "").parameters()
        assert parameters["mem_gb"] * 1024 == megabytes
