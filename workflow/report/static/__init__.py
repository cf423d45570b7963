"""The page's figures on paper: plotly's dictionaries as SVG files, drawn by matplotlib (`files.write_figures`)."""
