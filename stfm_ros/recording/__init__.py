"""Recording on a robot: bags that a kill or a power cut leaves readable, of the frames that are worth training on.

    Recorder     takes messages from callbacks, never makes them wait, writes in the background (recorder.py)
    Chooser      which frames are kept, and why the others are not (chooser.py, pairing.py, selection.py)
    CrashSafeBag the rosbag2 folder it writes (bag.py)
    recover      finishes a bag whose recording was interrupted (recover.py, ``stfm recover``)

No ROS here: messages come as CDR bytes, or as any object with the fields of their type. docs/recording.md is for users.
"""
