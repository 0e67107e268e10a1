"""The classes of NVFLARE that a user's own executors, learners and controllers are made of, with fedsag's insides.

The shim gives them under NVFLARE's names. They have what such code uses; another name is an error that says so.
"""
