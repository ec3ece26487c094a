"""What the commands of the command line do; `odeopt.cli` says what they are called and which options they take."""
