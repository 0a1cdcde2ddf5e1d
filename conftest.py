"""What every run of pytest leaves out."""

#: needs MONAI Label, which has an environment of its own (`make test-label`)
collect_ignore = ["medseg_monai/apps/label"]
