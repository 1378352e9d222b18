"""A Helm release's name and a kubeconfig in; its run's state, logs, report and cost out, without kubectl."""
