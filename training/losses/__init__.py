"""The losses of teacher and student, one module each, with its equation.

    L_teacher = l0 L_c + l1 L_f
    L_student = l0 L_c + l1 L_f + l2 L_MQD + l3 L_att

after US 2023/0298307, in the reading that each module gives.

Notation: S is the matrix of coarse similarities, P its dual softmax (``stfm_ros.model.coarse``); S and T as indices are
student and teacher. Every mean runs over the pairs of all processes (``stfm_training.ranks``).
"""
