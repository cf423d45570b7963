"""Figures on paper: every figure of the pages is an SVG that says all by itself; what is not drawn is an error."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawing

from tests.report import whole
from tests.report.reader import HOSTILE
from workflow.report.drawing import Figure, axes, bar_axes, plot
from workflow.report.static import marks
from workflow.report.static.axes import Plane
from workflow.report.static.files import named, write_figures
from workflow.report.static.svg import to_svg
from workflow.report.static.terms import colour, words
from workflow.report.static.traces import draw

SVG = "{http://www.w3.org/2000/svg}"
POINTS = {
    "type": "scatter",
    "mode": "lines+markers",
    "x": [1, 2, 4],
    "y": [1.0, 3.0, 2.0],
    "line": {"color": "#112233"},
}
BARS = {"type": "bar", "orientation": "h", "y": ["a", "b"], "x": [1.0, -2.0], "marker": {"color": "#445566"}}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Every figure of the pages with panel and choice, and its SVG."""
    made = [make(tmp_path_factory.mktemp("tree"))[1] for make in (whole.training, whole.tuned, whole.memory)]
    return [(*entry, to_svg(*_arguments(entry))) for figures in made for entry in named(figures)]


def _arguments(entry):
    _, panel, figure, choice = entry[:4]
    return figure, panel, choice, "Experiment x."


def figure_of(*traces, layout=None, **about):
    whole_layout = {**axes("time (s)", "loss (nats)"), **(layout or {})}
    return Figure(
        "made-up", about.pop("title", "A title"), plot(list(traces), whole_layout, 300), "A caption.", **about
    )


def text_of(svg):
    return " ".join(" ".join(ElementTree.fromstring(svg).itertext()).split())


def plane_of(*traces, layout=None):
    """The traces on matplotlib's axes, to look at."""
    layout = layout or {}
    plane = Plane(Drawing().add_subplot(), list(traces), layout)
    draw(plane, list(traces), layout)
    plane.finish()
    return plane


# --- the pages' figures


def test_every_figure_of_the_pages_is_an_svg_with_title_caption_units_and_legend(drawn):
    assert len({figure.name.split("-")[0] for _, _, figure, _, _ in drawn}) >= 8
    for name, panel, figure, choice, svg in drawn:
        said = text_of(svg)
        layout = {**figure.plot["layout"], **(choice["layout"] if choice else {})}
        expected = [figure.title, panel, "Experiment x.", *figure.caption.split(), choice["label"] if choice else ""]
        expected += [layout[axis]["title"]["text"] for axis in ("xaxis", "yaxis") if "title" in layout[axis]]
        traces = figure.plot["data"]
        traces = [trace | chosen for trace, chosen in zip(traces, choice["traces"], strict=True)] if choice else traces
        traces = [trace for trace in traces if trace.get("showlegend", True) and "name" in trace]
        expected += [words(trace["name"]) for trace in traces if len(traces) > 1]
        assert [text for text in expected if text not in said] == [], name


def test_every_figure_has_the_pages_colours_dashes_and_tick_labels(drawn):
    for name, _, figure, choice, svg in drawn:
        said = text_of(svg)
        changes = choice["traces"] if choice else [{}] * len(figure.plot["data"])
        for trace in [{**trace, **change} for trace, change in zip(figure.plot["data"], changes, strict=True)]:
            lines = "lines" in trace.get("mode", "") and trace["line"].get("width") != 0
            shown = trace["line"]["color"] if lines else trace.get("fillcolor", trace.get("marker", {}).get("color"))
            values = [value for value in trace["x"] if value is not None]
            for one in [shown] if isinstance(shown, str) else shown or []:
                assert not any(values) or to_hex(colour(one)) in svg, (name, one)
            if lines and trace["line"].get("dash", "solid") != "solid":
                assert "stroke-dasharray" in svg, name
            for label in [value for value in trace["y"] if isinstance(value, str)]:
                assert words(label) in said, (name, label)


def test_the_same_figure_gives_the_same_bytes_whatever_was_drawn_before_and_set_by_the_user(drawn):
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        for entry in drawn[:: len(drawn) // 4]:
            assert to_svg(*_arguments(entry)) == entry[-1]
            assert "<dc:date>" not in entry[-1] and "metadata" not in entry[-1]
        assert matplotlib.rcParams["font.size"] == 30


def test_an_svg_asks_for_no_other_file_and_runs_nothing(drawn):
    for name, *_, svg in drawn:
        root = ElementTree.fromstring(svg)
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert not tags & {"script", "image", "foreignObject", "a"}, name
        links = [v for element in root.iter() for key, v in element.attrib.items() if key.endswith("href")]
        assert all(link.startswith("#") for link in links)


def test_a_screen_reader_is_told_title_and_caption():
    root = ElementTree.fromstring(to_svg(figure_of(POINTS), panel="of x", about="Of that."))
    named_by = {element.get("id"): element.text for element in root if element.tag in (f"{SVG}title", f"{SVG}desc")}
    assert root.get("role") == "img"
    assert [named_by[place] for place in root.get("aria-labelledby").split()] == [
        "A title, of x",
        "A caption. Of that.",
    ]


def test_no_display_and_no_state_of_pyplot_is_needed():
    code = (
        "import sys; from tests.report.test_static import POINTS, figure_of, to_svg;"
        "to_svg(figure_of(POINTS)); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_text_from_records_stays_text_and_a_page_of_many_lines_grows():
    label = f"{HOSTILE} $x^2$ \x0b"
    escaped = label.replace("&", "&amp;").replace("<", "&lt;")
    named_so = {**POINTS, "name": escaped}
    svg = to_svg(figure_of(named_so, {**BARS, "x": [1, 2], "y": [1, 2], "name": "other"}, title=label), about=label)
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert f"{HOSTILE} $x^2$ \ufffd" in texts and "<script>" not in svg
    longer = ElementTree.fromstring(to_svg(figure_of(POINTS), about="many words " * 100))
    assert float(longer.get("viewBox").split()[3]) > float(root.get("viewBox").split()[3])


def test_a_single_trace_needs_no_legend_and_more_than_ten_stand_beside_the_plot():
    assert "only one" not in text_of(to_svg(figure_of({**POINTS, "name": "only one"})))
    many = [{**POINTS, "name": f"trace {place}"} for place in range(11)]
    for count, beside in ((10, False), (11, True)):
        root = ElementTree.fromstring(to_svg(figure_of(*many[:count])))
        place = {e.text: float(e.get("x")) for e in root.iter(f"{SVG}text") if e.get("x")}
        assert (place["trace 0"] > 500) == beside


# --- what would be dropped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "pie"}, "trace.type is 'pie'; legal: scatter, bar"),
        ({"mode": "lines+arrows"}, r"trace.mode is 'lines\+arrows'"),
        ({"mode": None}, "trace.mode is None"),
        ({"connectgaps": True}, "scatter trace holds connectgaps"),
        ({"line": {"color": "#112233", "smoothing": 1}}, "trace.line holds smoothing"),
        ({"line": {"color": "#112233", "shape": "spline"}}, "line.shape is 'spline'"),
        ({"line": {"color": "#112233", "dash": "5px"}}, "line.dash is '5px'"),
        ({"line": {}}, "says no colour"),
        ({"marker": {"symbol": "hourglass"}}, "marker.symbol is 'hourglass'"),
        ({"fill": "tonext"}, "trace.fill is 'tonext'"),
        ({"error_y": {"type": "percent", "value": 5}}, "trace.error_y holds value"),
        ({"error_y": {"type": "percent", "array": [1, 1, 1]}}, "error_y.type is 'percent'"),
    ],
)
def test_a_trace_that_is_not_drawn_is_an_error_that_names_it(change, message):
    with pytest.raises(ValueError, match=f"Figure made-up cannot be drawn as SVG: .*{message}"):
        to_svg(Figure("made-up", "", {"data": [{**POINTS, **change}], "layout": {"height": 300}}, ""))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"yaxis2": {}}, "layout holds yaxis2"),
        ({"barmode": "waterfall"}, "layout.barmode is 'waterfall'"),
        ({"xaxis": {"type": "date"}}, "xaxis.type is 'date'"),
        ({"xaxis": {"tickangle": 40}}, "xaxis holds tickangle"),
        ({"xaxis": {"tickformat": "~s"}}, "xaxis.tickformat is '~s'"),
        ({"yaxis": {"categoryorder": "total ascending"}}, "yaxis.categoryorder is 'total ascending'"),
        ({"shapes": [{"type": "circle", "x0": 0, "x1": 1, "y0": 0, "y1": 1}]}, "shape.type is 'circle'"),
        ({"annotations": [{"text": "x", "x": 0, "y": 0, "hovertext": "y"}]}, "annotation holds hovertext"),
        ({"annotations": [{"text": "x", "x": 0, "y": 0, "xref": "x2"}]}, "xref is 'x2'"),
    ],
)
def test_a_setting_that_is_not_drawn_is_an_error_that_names_it(layout, message):
    with pytest.raises(ValueError, match=message):
        to_svg(Figure("made-up", "", {"data": [POINTS], "layout": {"height": 300, **layout}}, ""))


def test_bars_with_texts_must_say_where_they_stand():
    with pytest.raises(ValueError, match="textposition of bars with texts is not said"):
        to_svg(figure_of({**BARS, "text": ["1", "2"]}))


# --- where things stand


def boxes(plane):
    """(left, right, bottom, top) of every bar, as it grows."""
    edges = [(p.get_x(), p.get_x() + p.get_width(), p.get_y(), p.get_y() + p.get_height()) for p in plane.axes.patches]
    return [tuple(round(edge, 3) for edge in bar) for bar in edges]


def test_stacked_bars_begin_where_the_one_before_ends_on_either_side_of_zero():
    more = {**BARS, "x": [3.0, -4.0]}
    plane = plane_of(BARS, more, layout={"barmode": "stack", "bargap": 0.5})
    first, second = (0, 1, -0.25, 0.25), (0, -2, 0.75, 1.25)
    assert boxes(plane) == [first, second, (1, 4, -0.25, 0.25), (-2, -6, 0.75, 1.25)]


def test_grouped_bars_share_the_place_of_their_name_in_their_order():
    plane = plane_of(BARS, BARS, layout={"barmode": "group", "bargap": 0.2})
    assert [box[2:] for box in boxes(plane)] == [(-0.4, 0.0), (0.6, 1.0), (0.0, 0.4), (1.0, 1.4)]


def test_names_stand_in_the_order_of_the_list_and_from_the_top_where_the_axis_is_reversed():
    layout = bar_axes("x", 1.0)
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": ["b", "a"]}
    plane = plane_of(BARS, layout={"xaxis": layout["xaxis"], "yaxis": layout["yaxis"]})
    assert [tick.get_text() for tick in plane.axes.get_yticklabels()] == ["b", "a"]
    assert plane.axes.get_ylim() == (1.5, -0.5) and plane.y.places(["a", "b", None])[:2] == [1, 0]


def test_a_hatch_is_in_the_bars_colour_on_white():
    plane = plane_of({**BARS, "marker": {"color": "#445566", "pattern": {"shape": "/"}}})
    bar = plane.axes.patches[0]
    assert (to_hex(bar.get_facecolor()), to_hex(bar.get_edgecolor()), bar.get_hatch()) == ("#ffffff", "#445566", "//")


def test_a_stack_of_areas_adds_up():
    areas = [{**POINTS, "mode": "lines", "stackgroup": "all", "fillcolor": "#112233", "line": {"width": 0}}] * 2
    plane = plane_of(*areas)
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in plane.axes.collections]
    assert tops == [3, 6] and not plane.axes.lines


def test_a_step_goes_across_and_then_up():
    (line,) = plane_of({**POINTS, "mode": "lines", "line": {"color": "#112233", "shape": "hv"}}).axes.lines
    assert list(zip(*line.get_data(), strict=True)) == [(1, 1), (2, 1), (2, 3), (4, 3), (4, 2)]


def test_a_band_is_filled_between_its_two_lines():
    low, high = {**POINTS, "mode": "lines", "y": [0, 0, 0]}, {**POINTS, "mode": "lines", "fill": "tonexty"}
    (band,) = plane_of(low, high).axes.patches
    assert band.get_xy().tolist()[:6] == [[1, 1], [2, 3], [4, 2], [4, 0], [2, 0], [1, 0]]
    assert band.get_facecolor()[3] == 0.5


def test_a_line_breaks_where_a_value_is_missing_and_no_text_stands_there():
    plane = plane_of({**POINTS, "mode": "lines+text", "y": [1, None, 2], "text": ["a", "b", "c"]})
    assert [math.isnan(y) for y in plane.axes.lines[0].get_ydata()] == [False, True, False]
    assert [note.get_text() for note in plane.axes.texts] == ["a", "c"]


def test_symbols_and_sizes_differ_from_point_to_point():
    marker = {"symbol": ["circle-open", "diamond", "circle-open"], "size": [9, 16, 4], "color": "#778899"}
    opened, filled = plane_of({**POINTS, "mode": "markers", "marker": marker}).axes.collections
    assert opened.get_sizes().tolist() == [81, 16] and filled.get_sizes().tolist() == [256]
    assert len(opened.get_facecolor()) == 0 and to_hex(filled.get_facecolor()[0]) == "#778899"


def test_error_bars_reach_as_far_as_they_say():
    error = {"type": "data", "symmetric": False, "array": [1, 2, 3], "arrayminus": [0.5, 0, None]}
    plane = plane_of({**POINTS, "error_y": error})
    ends = [path.vertices[:, 1].tolist() for path in plane.axes.collections[0].get_paths()]
    assert ends == [[0.5, 2.0], [3.0, 5.0], [2.0, 5.0]]
    coloured = {**POINTS, "mode": "markers", "line": {}, "marker": {"color": ["#111111", "#222222", "#333333"]}}
    assert len(plane_of({**coloured, "error_y": error}).axes.collections) == 2
    one_sided = plane_of({**POINTS, "error_y": {"type": "data", "symmetric": False, "array": [1, 1, 1]}})
    assert one_sided.axes.collections[0].get_paths()[0].vertices[:, 1].tolist() == [1, 2]


def test_a_logarithmic_axis_has_exponents_in_range_and_annotations_but_not_in_shapes():
    layout = {
        "xaxis": {"type": "log", "range": [-4, 0]},
        "shapes": [{"type": "line", "x0": 0.01, "x1": 0.01, "y0": 0, "y1": 1, "yref": "paper"}],
        "annotations": [{"text": "here", "x": -3, "y": 2, "showarrow": False}],
    }
    plane = plane_of({**POINTS, "x": [1e-3, 1e-2, 0.0]}, layout=layout)
    marks.shape(plane, layout["shapes"][0])
    marks.annotation(plane, layout["annotations"][0])
    assert plane.axes.get_xscale() == "log" and plane.axes.get_xlim() == (1e-4, 1)
    assert plane.axes.texts[0].xy == (1e-3, 2) and plane.axes.lines[-1].get_xdata() == [0.01, 0.01]
    assert math.isnan(plane.x.place(0.0))


@pytest.mark.parametrize("ends", [(6.5, 724.0), (1.0, 1.0), (0.03, 0.031), (1e-5, 1e4)])
def test_a_logarithmic_axis_has_labelled_ticks_whatever_it_spans(ends):
    svg = to_svg(figure_of({**POINTS, "x": list(ends), "y": [1, 2]}, layout={"xaxis": {"type": "log"}}))
    texts = [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert any(
        re.fullmatch(r"[\d,.e−]+", text) and float(text.replace(",", "").replace("−", "-")) > 0 for text in texts
    )


def test_numbers_are_grouped_and_have_a_minus():
    plane = plane_of({**POINTS, "x": [-2000, 0, 2000]})
    assert plane.x._number(-2000.0) == "−2,000" and plane.x._number(0.1 + 0.2) == "0.3"


def test_long_names_leave_room_for_the_plot():
    label = "a variant with a name of very many words " * 4
    svg = to_svg(figure_of({**BARS, "y": [label, "b"]}, layout=bar_axes("x", 1.0)))
    assert "…" in text_of(to_svg(figure_of({**POINTS, "name": label * 3}, {**POINTS, "name": "b"})))
    spine = re.search(r'id="patch_2">\s*<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+)', svg)
    assert float(spine[2]) - float(spine[1]) > 300


# --- files


def choices(*labels):
    return [{"label": label, "traces": [{"y": [1, 1, place]}], "layout": {}} for place, label in enumerate(labels)]


def test_a_choice_is_a_file_and_its_values_are_drawn(tmp_path):
    write_figures([("m on d", figure_of(POINTS, choices=choices("MT-Bench", "GSM8K, 8")))], tmp_path, "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["made-up-gsm8k_8.svg", "made-up-mt_bench.svg"]
    contents = {file.read_text() for file in tmp_path.iterdir()}
    assert len(contents) == 2 and any("A title: GSM8K, 8, m on d" in content for content in contents)


def test_the_panel_is_in_the_name_where_there_are_several():
    figure = figure_of(POINTS)
    assert [name for name, *_ in named([("m on d", figure)])] == ["made-up"]
    both = [("m on d", figure), ("m/2 on d", figure)]
    assert [name for name, *_ in named(both)] == ["m_on_d-made-up", "m_2_on_d-made-up"]


def test_names_that_would_be_the_same_are_numbered_and_long_ones_cut():
    figure = figure_of(POINTS, choices=choices("a b", "a/b", "a" * 500, "中文", "英文"))
    names = [name for name, *_ in named([("", figure)])]
    assert len(set(names)) == 5 and names[:2] == ["made-up-a_b", "made-up-a_b-2"] and max(map(len, names)) < 200


def test_figures_of_former_reports_go(tmp_path):
    (tmp_path / "former.svg").write_text("")
    write_figures([("", figure_of(POINTS))], tmp_path, "")
    assert [file.name for file in tmp_path.iterdir()] == ["made-up.svg"]
