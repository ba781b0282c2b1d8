"""The operator's command line `legation`.

`main` is the entry; `lazy_group` finds a command's module only when it is called, so that `--help` stays fast. One module per
group of commands; `invocation` is what every command knows about the deployment, `terminal` is the only place that prints.
"""
