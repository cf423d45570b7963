# The experiment, checked before anything starts, and what experiments of all kinds share.
from shlex import quote

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from workflow.engine.errors import InputError
from workflow.engine.records import memory_files, method_files, sha256_sources, sources, write_json
from workflow.kinds import resolve

try:
    EXPERIMENT = resolve(config)
except InputError as error:
    raise WorkflowError(f"The experiment is not valid.\n  {error}")

NAME = EXPERIMENT["name"]
COMPARED_SETTINGS = {key: value for key, value in EXPERIMENT.items() if key != "tracking"}  # not where people look
RESULTS = f"results/{NAME}"
DOCUMENT = f"{RESULTS}/experiment.json"
COMPLETE = f"{RESULTS}/complete"

# Stages run with this environment's python, activated or not, unless conda brings its own, and find the experiment by a
# variable: a parameter would tie prepared data and models to the experiment that made them first.
IN_CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
SEARCH = "" if IN_CONDA else f"PATH={quote(str(Path(sys.executable).parent))}:$PATH "
shell.prefix(f"export {SEARCH}PYTHONPATH={quote(workflow.basedir)} EXPERIMENT={DOCUMENT}; ")


resource_scopes:
    gpu="local",
