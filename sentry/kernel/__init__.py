"""The kernel proper: tasks, thread groups, signals, exec, futexes, timers.

| Linux                      | here                                     |
| -------------------------- | ---------------------------------------- |
| struct task_struct         | task.Task (a Job of the loop)            |
| struct signal_struct       | threadgroup.ThreadGroup                  |
| struct sighand_struct      | signals.SignalHandlers                   |
| struct pid, pid_namespace  | ids.PidNamespace, numbers kept in Task   |
| process group, session     | ids.ProcessGroup, ids.Session            |
| struct mm_struct           | mm.mm.Mm                                 |
| struct fs_struct           | fscontext.FsContext                      |
| struct cred                | creds.Creds                              |
| schedule()                 | blocking.py, over sentry.wait.park       |

Start with kernel.py, then run.py.
"""
