"""`report.html`: what a run, a blend, a comparison or an evaluation shows, in one file.

`contents` and `frames` gather it from files, `plots` draws, `templates/` holds the pages, `write`
puts them together.
"""
