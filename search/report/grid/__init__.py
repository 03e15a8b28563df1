"""A table as its spec asks for it: rows, columns, marks and legend, as Markdown, LaTeX and HTML."""
