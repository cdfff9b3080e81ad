"""Pictures of reports, one file each. Only the modules here import matplotlib, and nothing imports them before it is needed."""
