# One process a run: fine-tune, measure, export.


rule train:
    input:
        data=DATA_MANIFEST,
        model=model_manifest,
        chosen=choice,
        continued=continued_record,
    output:
        *NORMS_OF_A_RUN,
        record=f"{RUN}/run.json",
        steps=f"{RUN}/log.jsonl",
        checkpoint=directory(f"{RUN}/model"),
    log:
        f"{LOGS}/train.log",
    conda:
        "../../environment.yml"
    threads: EXPERIMENT["threads"]
    resources:
        gpu=1 if EXPERIMENT["device"] == "cuda" else 0,
    params:
        run=run_path,
        settings=train_settings,
    shell:
        "python -m workflow.stages.train --experiment $EXPERIMENT --run {params.run} 2> {log}"
