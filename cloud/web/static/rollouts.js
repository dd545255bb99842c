import { pollFragment } from "./fragments.js";

pollFragment("rollouts", "/rollouts/rows", 4000);
