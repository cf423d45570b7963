# Every cell simulated, one process each, and on the CPU measured; tables and the page of what was predicted and measured.


rule simulate:
    output:
        prediction=f"{CELL}/simulated.json",
        timeline=f"{CELL}/simulated_timeline.csv",
    log:
        f"{CELL_LOGS}/simulate.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        cell=cell_path,
        settings=cell_settings,
        code=SIMULATION_CODE,
    shell:
        "python -m workflow.stages.simulate --experiment $EXPERIMENT --cell {params.cell} 2> {log}"


if MEASURED_HERE:

    rule measure:
        output:
            record=f"{CELL}/run.json",
            timeline=f"{CELL}/timeline.csv",
        log:
            f"{CELL_LOGS}/measure.log",
        conda:
            "../../environment.yml"
        threads: workflow.cores  # alone on the machine: it measures time
        params:
            cell=cell_path,
            settings=cell_settings,
            effort=EXPERIMENT["measure"],
            code=MEASURING_CODE,
        shell:
            "python -m workflow.stages.measure --experiment $EXPERIMENT --cell {params.cell} 2> {log}"


rule memory_report:
    input:
        predictions=all_cells("simulated.json"),
        timelines=all_cells("simulated_timeline.csv"),
        measured=measured(),
    output:
        tables=TABLES,
        figures=FIGURES,
        page=PAGE,
        complete=touch(COMPLETE),  # a page of an unfinished experiment lacks it
    log:
        f"logs/{NAME}/memory_report.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        settings=COMPARED_SETTINGS,
        code=sha256_sources(sources(*REPORT_SOURCES, "workflow/stages/memory_report.py")),
    shell:
        "python -m workflow.stages.memory_report --experiment $EXPERIMENT 2> {log}"


onstart:
    write_json(Path(DOCUMENT), EXPERIMENT)


onerror:
    Path(COMPLETE).unlink(missing_ok=True)
    shell("python -m workflow.stages.memory_report --experiment $EXPERIMENT --partial")
    print(f"Report of what there is: {RESULTS}/report.html", file=sys.stderr)


onsuccess:
    if Path(COMPLETE).exists():  # not where single files were asked for
        print(f"Report: {RESULTS}/report.html", file=sys.stderr)
