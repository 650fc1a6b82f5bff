from .network import ModuleStudent as ModuleStudent
from .network import Student as Student
from .network import StudentSpec as StudentSpec
from .network import make_student as make_student
from .policies import StudentPolicies as StudentPolicies
from .training import OPTIMISERS as OPTIMISERS
from .training import train as train
