"""System calls: one file per topic, each handler named after its call.

registry.py joins the handlers with the numbers of sentry/abi and holds what is known of every
other number; args.py says how raw registers become arguments.
"""
