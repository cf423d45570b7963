# Trials, one process each, trained as runs are; then what those of a row choose, which its final runs wait for (train.smk).


use rule train as trial with:
    input:
        data=DATA_MANIFEST,
        model=model_manifest,
    output:
        record=f"{RESULTS}/{TRIAL}/run.json",
        steps=f"{RESULTS}/{TRIAL}/log.jsonl",
    log:
        f"logs/{NAME}/{TRIAL}/train.log",
    params:
        run=trial_path,
        settings=trial_settings,


rule select:
    input:
        lambda wildcards: [f"{RESULTS}/{trial['path']}/run.json" for trial in trials_of_row(wildcards)],
    output:
        CHOICE,
    log:
        f"logs/{NAME}/{ROW}/tuning/select.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        row=row_of,
        trials=lambda wildcards: tried(trials_of_row(wildcards)),
        code=sha256_sources(CHOOSING_CODE),
    shell:
        "python -m workflow.stages.select --experiment $EXPERIMENT --row {params.row} 2> {log}"
