"""Terminal, live view, figures, pages: how what reports found is shown."""
