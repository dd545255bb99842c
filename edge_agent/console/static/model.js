import { followAgent } from "./follow.js";
import { pollFragment } from "./fragments.js";

followAgent();
pollFragment("model", "/fragments/model", 2000);
