# The runs of a training experiment, and its trials: where they live, and what decides each of them.
import os

from eval.chosen import row_path, tried
from eval.judge_settings import shown_address
from eval.planned import LOOKS
from workflow.continual_pretraining import FOLDER, continues, phase_of
from workflow.experiment import baseline_of, noise_floor_run
from workflow.places import benchmarks_folder, data_folder, model_folder
from workflow.stages.leaks import forget_former_leak

ROW = "{model}/{data}/{method}/{variant}"
RUN = f"{RESULTS}/{ROW}/seed{{seed}}"
LOGS = f"logs/{NAME}/{ROW}/seed{{seed}}"
CONTINUED = f"{RUN}/{FOLDER}"  # of a run that pretrains continually
RUNS = {run["path"]: run for run in EXPERIMENT["runs"]}
TRIAL = f"{ROW}/tuning/trial{{trial}}/seed{{seed}}"
TRIALS = {trial["path"]: trial for trial in EXPERIMENT["trials"]}
CHOICE = f"{RESULTS}/{ROW}/tuning/chosen.json"
CHOICES = {row_path(trial): CHOICE.format(**trial) for trial in TRIALS.values()}
CHOOSING_CODE = sources("eval/tuning.py", "workflow/stages/select.py")
DATA_MANIFEST = str(data_folder(EXPERIMENT) / "manifest.json")
LOADING_CODE = [
    *sources("eval/backends.py", "eval/language_model.py", "eval/vllm_model.py"),
    *sources("workflow/engine/checkpoints.py", "workflow/engine/devices.py"),
    *sources("workflow/engine/models.py", "workflow/engine/split.py"),
]
EVALUATION_CODE = [
    *LOADING_CODE,
    *sources("eval/harness.py", "eval/agieval.py", "eval/benchmarks.py", "eval/hub_files.py", "eval/general_text.py"),
    *sources("eval/answering.py", "eval/json_lines.py", "eval/mt_bench.py"),
    *sources("workflow/engine/prompts.py", "workflow/stages/evaluate.py"),
]
GENERAL_TEXT_CODE = [
    *LOADING_CODE,
    *sources("eval/general_text.py", "workflow/stages/evaluate.py", "workflow/stages/general_text.py"),
]
MT_BENCH = EXPERIMENT["mt_bench"] or {}
ASKS_A_JUDGE = MT_BENCH.get("judge") == "openai"
# which judge it is decides the ratings; its key, pace, limits and prices do not, and secrets are never kept
SERVER = os.environ.get("JUDGE_SERVER_NAME") or shown_address(os.environ.get("JUDGE_BASE_URL", ""))
JUDGE = [os.environ.get("JUDGE_MODEL"), SERVER] if ASKS_A_JUDGE else []
JUDGING_CODE = [
    *sources("eval/mt_bench.py", "eval/json_lines.py", "eval/judging.py"),
    *sources("eval/judge_server.py", "workflow/stages/judge.py"),
    *sources("eval/judge_client.py", "eval/judge_http.py", "eval/judge_settings.py", "eval/judge_store.py"),
]
PAIRING_CODE = sources("eval/pairwise.py", "workflow/stages/pairwise.py")
NOISE_CODE = sources("eval/noise.py", "eval/items.py", "workflow/stages/noise_floor.py")
LEAKS = f"{RESULTS}/leaks.json"
BENCHMARKS_MANIFEST = str(benchmarks_folder(EXPERIMENT) / "manifest.json")
MODEL_MANIFESTS = {
    model["name"]: str(model_folder(EXPERIMENT, model["name"]) / "manifest.json") for model in EXPERIMENT["models"]
}
PRETRAINING_THREADS = max(model.get("pretrain", {}).get("threads", 1) for model in EXPERIMENT["models"])
COMPARED = [run for run in EXPERIMENT["runs"] if run["method"] in ("full", "lora")]  # by their weight norms
NORMS_OF_A_RUN = [f"{RUN}/weight_norms.csv"] if EXPERIMENT["training"]["weight_norms_every_steps"] else []
CODE = {method: sha256_sources(method_files(method)) for method in {run["method"] for run in EXPERIMENT["runs"]}}


wildcard_constraints:
    model="[^/]+",
    data="[^/]+",
    method="[^/]+",
    variant="[^/]+",
    trial=r"\d+",
    seed=r"\d+",


def find_judge():
    """Stop before the first job if the environment names no judge or no key."""
    from eval import EvaluationError
    from eval.judge_client import JudgeSettings

    try:
        JudgeSettings.from_environment()
    except EvaluationError as error:
        raise WorkflowError(f"mt_bench.judge: {error}")


def find_device():
    """Stop before the first job if jobs that need CUDA run on this machine, in this environment, and it has none."""
    if IN_CONDA or not workflow.local_exec or not any(job.resources.get("gpu") for job in workflow.dag.needrun_jobs()):
        return
    from workflow.engine.devices import check_device

    try:
        check_device(EXPERIMENT["device"])
    except InputError as error:
        raise WorkflowError(str(error))


def find_backend():
    """Stop before the first job if this machine, which runs the jobs, cannot evaluate as the experiment wants."""
    evaluation = EXPERIMENT["evaluation"]
    if not workflow.local_exec or (evaluation["backend"], evaluation["devices"]) == ("hf", 1):
        return
    from eval import EvaluationError
    from workflow.engine.checkpoints import check_machine

    try:
        check_machine(EXPERIMENT)
    except (EvaluationError, InputError) as error:
        raise WorkflowError(str(error))


def find_trackers():
    """Stop before the first job if this machine, in whose environment the jobs run, cannot show runs as asked."""
    if IN_CONDA or not workflow.local_exec:
        return
    from workflow.engine.tracking import check_installed, check_login

    try:
        check_installed(EXPERIMENT["tracking"])
        check_login(EXPERIMENT["tracking"])
    except InputError as error:
        raise WorkflowError(str(error))


def find_general_text():
    """Stop before the first job if data prepared before hold no such part of the text; new ones are checked as they come."""
    wanted = EXPERIMENT["evaluation"]["general_text"]
    if wanted is None or not Path(DATA_MANIFEST).is_file():
        return
    from eval import EvaluationError
    from eval.general_text import read_text
    from workflow.stages import read_manifest

    try:
        read_text(Path(read_manifest(data_folder(EXPERIMENT))["root"]), wanted)
    except EvaluationError as error:
        raise WorkflowError(str(error))


def row_of(wildcards):
    """What a run shares with those that differ by their seed only."""
    return ROW.format(**wildcards)


def run_path(wildcards):
    """The run's name within the experiment."""
    return f"{row_of(wildcards)}/seed{wildcards.seed}"


def trial_path(wildcards):
    """The trial's name within the experiment."""
    return TRIAL.format(**wildcards)


def trials_of_row(wildcards):
    """All trials of a row."""
    return [trial for trial in TRIALS.values() if row_path(trial) == row_of(wildcards)]


def choice(wildcards):
    """What its trials chose for a run's row; nothing where there are none."""
    return CHOICES.get(row_of(wildcards), [])


def model_manifest(wildcards):
    """The prepared base model of a run."""
    return MODEL_MANIFESTS[wildcards.model]


def continued_record(wildcards):
    """The record of a run's continual pretraining; nothing where it has none."""
    return f"{CONTINUED}/run.json" if continues(EXPERIMENT, RUNS[run_path(wildcards)]) else []


def train_settings(wildcards):
    """All that decides a run's training, its row's choice aside; a change of it, or of the code, runs it again."""
    return training_settings(EXPERIMENT, RUNS[run_path(wildcards)])


def trial_settings(wildcards):
    """All that decides a trial, which is not how many there are."""
    training = {key: value for key, value in EXPERIMENT["training"].items() if key not in LOOKS}
    return training_settings(EXPERIMENT | {"training": training}, TRIALS[trial_path(wildcards)])


def continual_settings(wildcards):
    """All that decides a run's continual pretraining, which is not how it is fine-tuned."""
    settings = training_settings(*phase_of(EXPERIMENT, RUNS[run_path(wildcards)]))
    return {key: value for key, value in settings.items() if key != "prompt_format"}


def training_settings(experiment, run):
    """All that decides a training with the settings of this experiment and run."""
    keys = ("training", "continual_pretraining", "prompt_format", "device", "threads")
    return {key: experiment[key] for key in keys} | {"run": run, "code": CODE[run["method"]]}


def all_runs(file):
    """One file of every run."""
    return [f"{RESULTS}/{path}/{file}" for path in RUNS]


def of_noise_floor_run(file):
    """A file of the run of a model that tells its noise floor."""
    return lambda wildcards: f"{RESULTS}/{noise_floor_run(EXPERIMENT, wildcards.model)['path']}/{file}"


def compared_answers(file):
    """One file of every run whose answers are compared with the baseline's."""
    return [f"{RESULTS}/{path}/{file}" for path, run in RUNS.items() if baseline_of(EXPERIMENT, run)]


def of_baseline(file):
    """A file of the run that a run's answers are compared with."""
    return lambda wildcards: f"{RESULTS}/{baseline_of(EXPERIMENT, RUNS[run_path(wildcards)])['path']}/{file}"


def compared(wildcards):
    """The runs under full fine-tuning and LoRA of a model on a data set."""
    return [run for run in COMPARED if (run["model"], run["data"]) == (wildcards.model, wildcards.data)]
