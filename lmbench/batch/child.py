"""`python -m lmbench.batch.child`: the process that the local engine starts for each job."""

from lmbench.batch.local import serve

if __name__ == "__main__":
    serve()
