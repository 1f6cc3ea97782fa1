"""The steps of the Dockerfile, carried out in a bare root file system where no container engine runs."""
