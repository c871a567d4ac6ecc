"""Report: what is asked of rows: tables, rankings, figures. Nothing here trains or runs anything."""
