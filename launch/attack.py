"""Measures how robust a model is: python launch/attack.py --model=model.keras."""

import console

with console.starting():
    from advrush_tf.runs import attack as attack_run
    from advrush_tf.runs.attack_settings import AttackSettings
    from advrush_tf.runs.flags import (
        define_data_dir,
        define_devices,
        define_settings,
        define_workdir,
        run,
    )

_WORKDIR = define_workdir("runs/attack")
_DATA_DIR = define_data_dir()
_DEVICES = define_devices(console.held_back)
_VALUES = define_settings(AttackSettings)


def main() -> None:
    """Runs the evaluation that the flags describe."""
    settings, devices = AttackSettings(**_VALUES()), _DEVICES()
    attack_run.run_attack(settings, _WORKDIR.value, _DATA_DIR.value, devices)


if __name__ == "__main__":
    run(main, console.held_back)
