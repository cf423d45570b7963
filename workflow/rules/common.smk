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

# What a report is made by, besides the stage and the files of the runs: a number in it may be of any of these.
REPORT_SOURCES = ("eval/*.py", "workflow/report/**/*.*", "workflow/engine/cards.py", "results/published/*.*")

# What a report makes, whichever it is, and what `snakemake --report` shows of it: all files of two folders, which are the
# report's own, so that a table or a figure more is shown without a word here.
TABLES = report(
    directory(f"{RESULTS}/tables"),
    patterns=["{table}.{kind,csv|md|tex}"],
    caption="../report/captions/table.rst",
    category="Tables",
    labels={"table": "{table}", "form": "{kind}"},
)
FIGURES = report(
    directory(f"{RESULTS}/figures"),
    patterns=["{figure}.svg"],
    caption="../report/captions/figure.rst",
    category="Figures",
    labels={"figure": "{figure}"},
)
PAGE = report(
    f"{RESULTS}/report.html",
    caption="../report/captions/page.rst",
    category="Report",
    labels={"page": "everything on one page"},
)

# Stages run with this environment's python, activated or not, unless conda brings its own, and find the experiment by a
# variable: a parameter would tie prepared data and models to the experiment that made them first.
IN_CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
SEARCH = "" if IN_CONDA else f"PATH={quote(str(Path(sys.executable).parent))}:$PATH "
shell.prefix(f"export {SEARCH}PYTHONPATH={quote(workflow.basedir)} EXPERIMENT={DOCUMENT}; ")


resource_scopes:
    gpu="local",
